-- Create runs.
--
-- asked: a list of what `insert` takes. Returns nothing if all were created as they are; else, by place in the list, nil for one
-- that was, '-' for one that was left without its worker, the row of the run that has the id or stands for it, or '@' and the
-- shard on which it is.

local there, waiting, said = insert(asked)
flush()
if next(there) == nil and #waiting == 0 then
  return {}
end
local found = {}
for index = 1, #asked do
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
