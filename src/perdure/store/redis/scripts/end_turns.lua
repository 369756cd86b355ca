-- Let nothing happen any more that belongs to a turn of a queue, or to one before it.
--
-- asked: 1 queue, 2 the turn.

if tonumber(redis.call('HGET', QUEUES, asked[1] .. '\0over') or 0) < asked[2] then
  redis.call('HSET', QUEUES, asked[1] .. '\0over', asked[2])
end
return 1
