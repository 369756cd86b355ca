-- Lease runs of a gated queue that were chosen.
--
-- asked: 1 queue, 2 worker, 3 now, 4 until, 5 ids of runs, 6 the turn that this is, 7 on the queue's home its paces (limit key,
-- time, …), elsewhere nil, 8 for how many milliseconds the home is to let nobody else choose meanwhile, nil for not at all,
-- 9 how many records and messages and 10 how many bytes of them at most. Returns nil if it is not the next turn, else how many
-- runs; for each its row, how many records, how many parts of messages; their records one after the other; their unread messages
-- (seq, message, …) one after the other. What a run has more than that is left for `held`.

local queue, worker, now, till, turn, paces = asked[1], asked[2], asked[3], asked[4], asked[6], asked[7]

-- Whether the turn can be taken, on the home of the queue.
local function is_next()
  local kept = redis.call('HMGET', QUEUES, queue, queue .. '\0turns', queue .. '\0hold')
  return kept[1] and sub(kept[1], 1, 1) ~= 'p' and tonumber(kept[2] or 0) == turn - 1 and not kept[3]
end

local function take_turn()
  redis.call('HSET', QUEUES, queue .. '\0turns', turn)
  if asked[8] then
    local time = redis.call('TIME')
    local ends = time[1] * 1000 + math.floor(time[2] / 1000) + asked[8]
    redis.call('HSET', QUEUES, queue .. '\0hold', format('%.0f:%.0f', turn, ends))
  end
  local new = {}
  for index = 1, #paces, 2 do
    new[#new + 1] = format('%.0f', paces[index + 1])
    new[#new + 1] = queue .. '\0' .. paces[index]
  end
  many('ZADD', PACES, new)
  many('ZREM', PACES, redis.call('ZRANGEBYSCORE', PACES, '-inf', format('%.0f', now), 'LIMIT', 0, 100 + #paces))
end

-- Whether the turn, which was taken on the home of the queue, is still going on.
local function goes_on()
  return tonumber(redis.call('HGET', QUEUES, queue .. '\0over') or 0) < turn
end

if paces and not is_next() then
  return false
elseif not paces and not goes_on() then
  return { 0 }
end

know(asked[5])
local looked_at, admitted, journals, messages, lengths, bytes = {}, {}, {}, {}, {}, 0
for _, id in ipairs(asked[5]) do
  local row = find(id)
  if row and not looked_at[row] and row.q == queue and letter_of(row) and row.d and row.d <= now then
    looked_at[row] = true
    local had, had_parts, position, read = #journals, #messages, 0, 0
    if #journals + #messages / 2 < asked[9] and bytes < asked[10] then
      position, read = read_journal(row, 0, journals, asked[9] - #journals, asked[10] - bytes)
    end
    if position then
      lease(row, worker, now, till, true)
      bytes = bytes + read
      if position == row.j and (row.u or 0) > 0 then
        bytes = bytes + read_inbox(row, 0, row.m, messages, asked[9] - #journals, asked[10] - bytes)
      end
      admitted[#admitted + 1] = row
      lengths[#lengths + 1] = { #journals - had, #messages - had_parts }
    else
      set_aside(row, now)
    end
  end
end
if paces then
  take_turn()
end
flush()

local answer = { #admitted }
for index, row in ipairs(admitted) do
  answer[#answer + 1] = packed[number_of[row]]
  answer[#answer + 1] = lengths[index][1]
  answer[#answer + 1] = lengths[index][2]
end
for _, list in ipairs({ journals, messages }) do
  for _, value in ipairs(list) do
    answer[#answer + 1] = value
  end
end
return answer
