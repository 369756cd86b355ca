-- Keep how a queue is set.
--
-- asked: 1 queue, 2 version, 3 what is to be kept: p, g or -, the version, a colon and the rest, 4 whether this is the queue's
-- home; elsewhere is a copy, that is never replaced by an older one. Returns 1 if it is kept now.

local kept = redis.call('HGET', QUEUES, asked[1])
local version = kept and tonumber(string.match(kept, '^.(%d+):')) or 0
if kept == asked[3] then
  return 1
elseif asked[4] and asked[2] ~= version + 1 or asked[2] < version then
  return 0
end
redis.call('HSET', QUEUES, asked[1], asked[3])
if kept then -- what was seen under the state before is over; only the home's turns count
  redis.call('HINCRBY', QUEUES, asked[1] .. '\0turns', 1)
end
return 1
