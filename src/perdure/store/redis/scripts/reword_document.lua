-- Replace a document's text by another that says the same.
--
-- asked: its beginning (collection <0> key <0>); the texts: old, new, old, new … Returns how many were replaced.

local kept = redis.call('ZRANGEBYLEX', DOCUMENTS, '[' .. asked, '(' .. asked .. ':', 'LIMIT', 0, 1)[1]
local head = kept and string.match(kept, '^%d+:%-?%d+:', #asked + 1)
for n = 3, #ARGV, 2 do
  if head and sub(kept, #asked + #head + 1) == ARGV[n] then
    redis.call('ZADD', DOCUMENTS, 0, asked .. head .. ARGV[n + 1]) -- first: there may be no memory left for it
    if ARGV[n] ~= ARGV[n + 1] then
      redis.call('ZREM', DOCUMENTS, kept)
    end
    return 1
  end
end
return 0
