-- List documents, in order or the other way round.
--
-- asked: 1 from where, 2 to where (both for ZRANGEBYLEX), 3 how many, 4 after how many bytes to stop, 5 whether the other way round.
-- Returns them as they are kept: fewer than asked for at the end, or where the bytes are enough.

local AT_ONCE = 20
local command = asked[5] and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local found, bytes = {}, 0
while #found < asked[3] and bytes < asked[4] do
  local first, last = asked[1], asked[2]
  if #found > 0 then
    first = '(' .. found[#found]
  end
  local page = redis.call(command, DOCUMENTS, first, last, 'LIMIT', 0, math.min(AT_ONCE, asked[3] - #found))
  for _, document in ipairs(page) do
    found[#found + 1] = document
    bytes = bytes + #document
  end
  if #page < AT_ONCE then
    break
  end
end
return found
