-- Say where runs are, or will be.
--
-- asked: a list of id and shard, with this one the home of every id. Returns for each the shard: this one (-1) if the run is
-- here, else the one that was said first.

local now, places = redis.call('TIME')[1] .. '000', {}
for index, wanted in ipairs(asked) do
  local id, place = wanted[1], -1
  if redis.call('HEXISTS', IDS, id) == 0 then
    local entry = redis.call('HGET', PLACES, id)
    place = entry and tonumber(string.match(entry, '^%d+')) or wanted[2]
    if place == wanted[2] then
      redis.call('HSET', PLACES, id, place .. ':' .. now)
    end
  end
  places[index] = place
end
return places
