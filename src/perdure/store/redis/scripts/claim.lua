-- Lease due runs.
--
-- asked: 1 queues, 2 workflows or nil, 3 how many at most, 4 worker, 5 now, 6 until, 7 how many records and messages and 8 how
-- many bytes of them at most. Returns nothing, or: whether it stopped for them, how many runs, how many records and how many
-- parts of messages of the last one, the rows, their journals one after the other, their unread messages (seq, message, …) one
-- after the other. What the last one has more than that is left for `held`.

local limit, now, most, most_bytes = asked[3], asked[5], asked[7], asked[8]
local levels, priorities = {}, {}
wanted_lanes(asked[1], asked[2], function(lane, of, first)
  if first <= math.max(now, 0) then
    local priority = tonumber(of.priority, 16)
    if not levels[priority] then
      levels[priority] = {}
      priorities[#priorities + 1] = priority
    end
    table.insert(levels[priority], lane)
  end
end)
if #priorities == 0 then
  return {}
end
table.sort(priorities)

local function is_before(one, other)
  local first, second = time_of(one), time_of(other)
  return first < second or (first == second and number_from(sub(one, 13)) < number_from(sub(other, 13)))
end

-- What is due, highest priority first, then longest due: the numbers, and time and number as they stand in DUE.
local function first_due(most_entries)
  local due, entries_of_due = {}, {}
  for _, priority in ipairs(priorities) do
    local left, here = most_entries - #due, {}
    if left > 0 then
      for _, lane in ipairs(levels[priority]) do
        local entries =
          redis.call('ZRANGEBYLEX', DUE, '[' .. lane, '(' .. lane .. time_text(now + 1), 'LIMIT', 0, left)
        for _, entry in ipairs(entries) do
          here[#here + 1] = sub(entry, #lane + 1)
        end
      end
      if #levels[priority] > 1 then
        table.sort(here, is_before)
      end
      for index = 1, math.min(left, #here) do
        entries_of_due[#due + 1] = here[index]
        due[#due + 1] = sub(here[index], 13)
      end
    end
  end
  return due, entries_of_due
end

local claimed, journals, messages, bytes, stopped = {}, {}, {}, 0, 0
local records_of_last, parts_of_last = 0, 0
local looked_at, damaged, orphaned = {}, 0, {}

-- Take an entry that leads to no run out of whichever lane it is in.
local function orphan(entry)
  for _, lanes_of_level in pairs(levels) do
    for _, lane in ipairs(lanes_of_level) do
      orphaned[#orphaned + 1] = lane .. entry
    end
  end
end

local function lease(row)
  row.c = row.S == 'r' and (row.c or 0) + 1 or row.c
  row.S, row.o, row.d, row.t = 'r', asked[4], asked[6], now
  row.b = row.b or now
  row.e = (row.e or 0) + 1
  row.i = nil
  touch(row)
  claimed[#claimed + 1] = row
end

-- A run whose journal is not whole would fail every worker: it waits for somebody to look at it.
local function set_aside(row)
  row.S, row.o, row.z, row.t = 'p', nil, nil, now
  touch(row)
end

local function take(number, entry)
  local row = row_of(number)
  if not row then
    damaged = damaged + 1
    orphan(entry)
    return
  end
  if #claimed > 0 and (#journals + #messages / 2 + row.j + (row.u or 0) > most or bytes > most_bytes) then
    stopped = 1
    return
  end
  local had, had_parts = #journals, #messages
  local position, read = read_journal(row, 0, journals, most - #journals, most_bytes - bytes)
  if not position then
    damaged = damaged + 1
    set_aside(row)
    return
  end
  bytes = bytes + read
  lease(row)
  if position < row.j then
    stopped = 1
  elseif (row.u or 0) > 0 then
    bytes = bytes + read_inbox(row, 0, row.m, messages, most - #journals, most_bytes - bytes)
    stopped = #messages - had_parts < 2 * row.u and 1 or 0
  end
  records_of_last, parts_of_last = #journals - had, #messages - had_parts
end

local most_entries, had_damaged
repeat
  most_entries, had_damaged = limit + damaged, damaged
  local due, entries = first_due(most_entries)
  know_rows(due)
  for index, number in ipairs(due) do
    if not looked_at[number] then
      take(number, entries[index])
      if stopped == 1 then
        break
      end
    end
  end
  if damaged > had_damaged then -- others come in their place
    for _, number in ipairs(due) do
      looked_at[number] = true
    end
  end
until stopped == 1 or damaged == had_damaged or #due < most_entries
many('ZREM', DUE, orphaned)
flush()

local answer = { stopped, #claimed, records_of_last, parts_of_last }
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
