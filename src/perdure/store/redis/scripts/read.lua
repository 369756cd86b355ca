-- Read documents.
--
-- asked: the beginning of each, collection <0> key <0>. Returns each as it is kept, or nil.

local found = {}
for n, begin in ipairs(asked) do
  found[n] = redis.call('ZRANGEBYLEX', DOCUMENTS, '[' .. begin, '(' .. begin .. ':', 'LIMIT', 0, 1)[1] or false
end
return found
