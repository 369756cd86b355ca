-- Keep runs as they were dumped.
--
-- asked: a list of what `insert` takes. Returns, by place in the list, nil for one that was new, the number of the run that has
-- the id, or '@' and the shard on which it is.

local there, found = insert(asked, true), {}
flush()
for index = 1, #asked do
  found[index] = there[index] or false
end
return found
