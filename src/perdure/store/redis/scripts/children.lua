-- Look at the children of a run.
--
-- asked: 1 the parent's id, 2 the number after which to begin, '' for the first, 3 how many at most. Returns the last number
-- looked at, '' at the end; then number, row, number, row …

local parent = asked[1]
local after = '(' .. parent .. '\0' .. asked[2]
local wanted = redis.call('ZRANGEBYLEX', FAMILY, after, '(' .. parent .. '\1', 'LIMIT', 0, asked[3])
for index, entry in ipairs(wanted) do
  wanted[index] = sub(entry, #parent + 2)
end
know_rows(wanted)
local found = { #wanted == asked[3] and wanted[#wanted] or '' }
for _, number in ipairs(wanted) do
  if packed[number] then
    found[#found + 1] = number
    found[#found + 1] = packed[number]
  end
end
return found
