-- Look at whole runs, first created first.
--
-- asked: 1 the number after which to begin, 2 how many at most, 3 how many records and messages at most, but for those of the
-- first run, 4 how many numbers to look at, 5 how many bytes of records at most, but for those of the first run. Returns where it stopped, whether there are later numbers, how many runs; for each its
-- row and how many messages; their journals one after the other; their messages (seq, message, …) one after the other.

local last = tonumber(redis.call('HGET', META, 'n') or 0)
local at, stop = asked[1], math.min(last, asked[1] + asked[4])
local found, rows_found, journals, messages, bytes = 0, {}, {}, {}, 0
while at < stop and found < asked[2] do
  local number = number_text(at + 1)
  local row = row_of(number)
  if row and not row.G then
    local sent = {}
    for seq = 1, row.m or 0 do
      sent[seq] = number .. ':' .. seq
    end
    if found > 0 and (#journals + row.j + #messages + #sent > asked[3] or bytes > asked[5]) then
      break
    end
    local kept = 0
    for seq, message in ipairs(fetch(INBOX, sent)) do
      if message then
        messages[#messages + 1] = seq
        messages[#messages + 1] = message
        kept = kept + 1
      end
    end
    for _, record in ipairs(journal_of(row)) do
      journals[#journals + 1] = record
      bytes = bytes + #record
    end
    rows_found[#rows_found + 1] = packed[number]
    rows_found[#rows_found + 1] = kept
    found = found + 1
  end
  at = at + 1
end
local answer = { at, at < last and 1 or 0, found }
for _, list in ipairs({ rows_found, journals, messages }) do
  for _, value in ipairs(list) do
    answer[#answer + 1] = value
  end
end
return answer
