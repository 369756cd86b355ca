-- Lease due runs of queues that are not gated.
--
-- asked: 1 queues, 2 workflows or nil, 3 how many at most, 4 worker, 5 now, 6 until, 7 how many records and messages and 8 how
-- many bytes of them at most. Returns nothing, or: whether it stopped for them, how many runs, how many records and how many
-- parts of messages of the last one, the rows, their journals one after the other, their unread messages (seq, message, …) one
-- after the other. What the last one has more than that is left for `held`.

local limit, now, most, most_bytes = asked[3], asked[5], asked[7], asked[8]
local levels = new_levels()
wanted_lanes(open_queues(asked[1]), asked[2], function(lane, of, first)
  if first <= math.max(now, 0) then
    add_lane(levels, lane, of)
  end
end)
if #levels.priorities == 0 then
  return {}
end

local claimed, journals, messages, bytes, stopped = {}, {}, {}, 0, 0
local records_of_last, parts_of_last = 0, 0
local looked_at, damaged, orphaned = {}, 0, {}

-- Take an entry that leads to no run out of whichever lane it is in.
local function orphan(entry)
  for _, lanes_of_level in pairs(levels.by) do
    for _, lane in ipairs(lanes_of_level) do
      orphaned[#orphaned + 1] = lane .. entry
    end
  end
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
    set_aside(row, now)
    return
  end
  bytes = bytes + read
  lease(row, asked[4], now, asked[6])
  claimed[#claimed + 1] = row
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
  local due, entries = first_due(levels, DUE, now, most_entries)
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
