-- What operators do.
--
-- asked: 1 now, 2 a list of actions: run's id, action, notice or nil. Returns for each nil if there is no such run, else status
-- before, status after, epoch, ids of those that ended.

local now = asked[1]

local function restart(row)
  local ended = end_descendants(row, now)
  local number, old = number_of[row], {}
  forget(row, true)
  if row.U then
    forget_dedup({ row })
    row.U = nil
  end
  for position = 1, row.j - 1 do
    old[#old + 1] = number .. ':' .. position
  end
  many('HDEL', RECORDS, old)
  row.j = math.min(row.j, 1)
  row.S, row.d, row.t = 'q', now, now
  row.e = (row.e or 0) + 1
  row.I = (row.I or 0) + 1
  row.i, row.c = nil, nil
  row.o, row.A, row.z, row.b, row.f, row.x, row.W, row.T, row.g = nil, nil, nil, nil, nil, nil, nil, nil, nil
  touch(row)
  return ended
end

local function act(row, action, notice)
  local status = row.S
  if action == 'terminate' then
    return terminate(row.y, now, notice)
  elseif action == 'restart' then
    return restart(row)
  elseif action == 'pause' and row.o then
    row.z = true
  elseif action == 'pause' and (status == 'q' or status == 'w' or status == 'u') then
    row.S = 'p'
  elseif action == 'resume' and status == 'p' then
    row.S, row.d = 'q', row.d or now
  elseif action == 'resume' and row.z then
    row.z = nil
  elseif action == 'discard' and ENDED[status] then
    row.x = now
  else
    return {}
  end
  row.t = now
  touch(row)
  return {}
end

local done = {}
for index, action in ipairs(asked[2]) do
  local row = find(action[1])
  done[index] = false
  if row then
    local status = row.S
    local ended = act(row, action[2], action[3])
    done[index] = { status, row.S, row.e or 0, ended }
  end
end
flush()
return done
