-- Remove entries from PLACES, unless somebody has asked for them since.
--
-- asked: a list of id and entry. Returns how many were removed.

local removed = 0
for _, known in ipairs(asked) do
  if redis.call('HGET', PLACES, known[1]) == known[2] then
    removed = removed + redis.call('HDEL', PLACES, known[1])
  end
end
return removed
