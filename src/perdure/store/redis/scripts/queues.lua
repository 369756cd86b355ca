-- Look at what is kept of queues.
--
-- asked: nothing. Returns field, value, field, value …

return redis.call('HGETALL', QUEUES)
