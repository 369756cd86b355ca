-- Lease due runs.
--
-- asked: 1 queues, 2 workflows or nil, 3 how many at most, 4 worker, 5 now, 6 until, 7 how many records and 8 how many bytes of
-- them at most, but for those of the first run. Returns nothing, or: whether it stopped for them, how many runs, the rows,
-- their journals one after the other, their unread messages (seq, message, …) one after the other.

local limit, now = asked[3], asked[5]
local levels, priorities = {}, {}
wanted_lanes(asked[1], asked[2], function(lane, of, head)
  if sub(head, 1, 12) <= time_text(now) then
    if not levels[of.priority] then
      levels[of.priority] = {}
      priorities[#priorities + 1] = of.priority
    end
    table.insert(levels[of.priority], lane)
  end
end)
if #priorities == 0 then
  return {}
end
table.sort(priorities)

local due = {}
for _, priority in ipairs(priorities) do
  local left, here = limit - #due, {}
  if left > 0 then
    for _, lane in ipairs(levels[priority]) do
      local entries =
        redis.call('ZRANGEBYLEX', DUE, '[' .. lane, '(' .. lane .. time_text(now + 1), 'LIMIT', 0, left)
      for _, entry in ipairs(entries) do
        here[#here + 1] = sub(entry, #lane + 1)
      end
    end
    if #levels[priority] > 1 then
      table.sort(here)
    end
    for index = 1, math.min(left, #here) do
      due[#due + 1] = sub(here[index], 13)
    end
  end
end

know_rows(due)
local claimed, journals, messages, bytes, stopped = {}, {}, {}, 0, 0
for _, number in ipairs(due) do
  local row = row_of(number)
  if #claimed > 0 and (#journals + row.j > asked[7] or bytes > asked[8]) then
    stopped = 1
    break
  end
  row.c = row.S == 'r' and (row.c or 0) + 1 or row.c
  row.S, row.o, row.d, row.t = 'r', asked[4], asked[6], now
  row.b = row.b or now
  row.e = (row.e or 0) + 1
  row.i = nil
  touch(row)
  claimed[#claimed + 1] = row
  for _, record in ipairs(journal_of(row)) do
    journals[#journals + 1] = record
    bytes = bytes + #record
  end
  for _, part in ipairs(unread(row, 0)) do
    messages[#messages + 1] = part
  end
end
flush()

local answer = { stopped, #claimed }
for _, row in ipairs(claimed) do
  answer[#answer + 1] = packed[number_of[row]]
end
for _, record in ipairs(journals) do
  answer[#answer + 1] = record
end
for _, part in ipairs(messages) do
  answer[#answer + 1] = part
end
return answer
