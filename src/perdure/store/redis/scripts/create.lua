-- Create runs.
--
-- asked: 1 a list of what `insert` takes, 2 whether they may be handed over, 3 unless nil, the channel and the message that tell
-- of those that are not. Returns nothing if all were created as they are; else, by place in the list, nil for one that was, '-' for
-- one that was left without its worker, the row of the run that has the id or stands for it, or '@' and the shard on which it is.

local list, hint = asked[1], asked[3]
local there, waiting, said = insert(list)
local handed = asked[2] and hand_over_new(list, there) or 0
flush()
if hint and handed < #list then
  redis.pcall('PUBLISH', hint[1], hint[2])
end
if next(there) == nil and #waiting == 0 then
  return {}
end
local found = {}
for index = 1, #list do
  found[index] = there[index] or false
  if there[index] and sub(there[index], 1, 1) ~= '@' then
    know_rows({ there[index] })
    found[index] = said[index] or packed[there[index]]
  end
end
for _, index in ipairs(waiting) do
  found[index] = '-'
end
return found
