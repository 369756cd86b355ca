-- Look at what a claim did not hand out of a run that is leased.
--
-- asked: 1 run's id, 2 epoch, 3 the position from which, 4 the seq behind which, 5 the seq up to which, 6 how many records and
-- messages and 7 how many bytes of them at most. Returns nothing if the lease is lost, else how many records, the records, and
-- when those are all the unread messages (seq, message, …).

local row = find(asked[1])
if not row or not row.o or (row.e or 0) ~= asked[2] then
  return {}
end
local records_read, messages = {}, {}
local position, bytes = read_journal(row, asked[3], records_read, asked[6], asked[7])
if not position then
  return {}
end
if position == row.j and #records_read < asked[6] and bytes < asked[7] then
  read_inbox(row, asked[4], asked[5], messages, asked[6] - #records_read, asked[7] - bytes)
end
local answer = { #records_read }
for _, list in ipairs({ records_read, messages }) do
  for _, value in ipairs(list) do
    answer[#answer + 1] = value
  end
end
return answer
