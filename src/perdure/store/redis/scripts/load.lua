-- Keep runs as they were dumped.
--
-- asked: a list of what `insert` takes. Returns how many were new.

local there, known = insert(asked), 0
for _ in pairs(there) do
  known = known + 1
end
flush()
return #asked - known
