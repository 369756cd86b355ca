-- Look for entries in PLACES that nobody has asked for lately.
--
-- asked: 1 where to go on, '0' for the beginning, 2 for how many milliseconds. Returns where to go on, '0' at the end; then
-- id, entry, id, entry …

local oldest = tonumber(redis.call('TIME')[1]) * 1000 - asked[2]
local scanned = redis.call('HSCAN', PLACES, asked[1], 'COUNT', 200)
local found = { scanned[1] }
for index = 1, #scanned[2], 2 do
  if tonumber(string.match(scanned[2][index + 1], '%d+$')) <= oldest then
    found[#found + 1] = scanned[2][index]
    found[#found + 1] = scanned[2][index + 1]
  end
end
return found
