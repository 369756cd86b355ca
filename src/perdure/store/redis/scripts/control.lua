-- What operators do.
--
-- asked: 1 now, 2 a list of actions: run's id, action, notice or nil, and nil or a list of the runs that may be ended: id, a list of
-- what `insert` takes. Returns for each nil if there is no such run, else status before, status after, epoch, ids of those that
-- ended, ids of those that would have, but were not in the list, so that nothing was done.

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

-- The runs that an action would end, and that are not in its list.
local function untold(row, action, told)
  local ending, left, known = {}, {}, {}
  if told and (action == 'restart' or action == 'terminate' and not ENDED[row.S]) then
    ending = unfinished_below(row)
    if action == 'terminate' then
      table.insert(ending, 1, row)
    end
  end
  for _, run in ipairs(told or {}) do
    known[run[1]] = true
  end
  for _, run in ipairs(ending) do
    if not known[run.y] then
      left[#left + 1] = run.y
    end
  end
  return left
end

-- Create what is told of those that ended.
local function tell(told, ended)
  local is_over = {}
  for _, id in ipairs(ended) do
    is_over[id] = true
  end
  for _, run in ipairs(told or {}) do
    if is_over[run[1]] then
      insert(run[2])
    else
      for _, new in ipairs(run[2]) do
        skip_texts(new)
      end
    end
  end
end

local done = {}
for index, action in ipairs(asked[2]) do
  local row, ended = find(action[1]), {}
  done[index] = false
  if row then
    local status, left = row.S, untold(row, action[2], action[4])
    if #left == 0 then
      ended = act(row, action[2], action[3])
    end
    done[index] = { status, row.S, row.e or 0, ended, left }
  end
  tell(action[4], ended)
end
flush()
return done
