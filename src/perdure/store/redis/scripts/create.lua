-- Create runs.
--
-- asked: a list of what `insert` takes. Returns nothing if all were created; else, by place in the list, nil for one that was,
-- the row of the run that has the id, or '@' and the shard on which it is.

local there = insert(asked)
flush()
if next(there) == nil then
  return {}
end
local found = {}
for index = 1, #asked do
  found[index] = there[index] or false
  if there[index] and sub(there[index], 1, 1) ~= '@' then
    know_rows({ there[index] })
    found[index] = packed[there[index]]
  end
end
return found
