-- Let others choose again from a queue, whose home this is.
--
-- asked: 1 queue, 2 the turn for which it was held.

local kept = redis.call('HGET', QUEUES, asked[1] .. '\0hold')
if kept and tonumber(string.match(kept, '^%d+')) == asked[2] then
  redis.call('HDEL', QUEUES, asked[1] .. '\0hold')
end
return 1
