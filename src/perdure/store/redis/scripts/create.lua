-- Create runs.
--
-- asked: a list of what `insert` takes. Returns nothing if all were created; else, by place in the list, the row of the run
-- that has the id, or nil for one that was created.

local there = insert(asked)
flush()
if next(there) == nil then
  return {}
end
local found = {}
for index = 1, #asked do
  found[index] = false
  if there[index] then
    know_rows({ there[index] })
    found[index] = packed[there[index]]
  end
end
return found
