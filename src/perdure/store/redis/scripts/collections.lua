-- List the collections that have documents on this shard.
--
-- asked: nothing. Returns their names, in no particular order: it leaps from one to the next.

local found, from = {}, '(\0'
while true do
  local first = redis.call('ZRANGEBYLEX', DOCUMENTS, from, '+', 'LIMIT', 0, 1)[1]
  if not first then
    return found
  end
  found[#found + 1] = string.match(first, '^[^%z]+')
  from = '(' .. found[#found] .. '\1'
end
