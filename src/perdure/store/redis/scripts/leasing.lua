-- Runs that a worker gets.

-- Lease a run to a worker until a time; `is_admitted` is true or nil.
local function lease(row, worker, now, till, is_admitted)
  row.c = row.o and (row.c or 0) + 1 or row.c
  row.S = (row.S == 'u' or row.S == 'f') and 'u' or 'r'
  row.o, row.A, row.d, row.t = worker, is_admitted, till, now
  row.b = row.b or now
  row.e = (row.e or 0) + 1
  row.i = nil
  touch(row)
end

-- A run whose journal is not whole would fail every worker: it waits for somebody to look at it.
local function set_aside(row, now)
  row.S, row.o, row.A, row.z, row.t = 'p', nil, nil, nil, now
  touch(row)
end
