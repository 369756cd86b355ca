-- Look for runs of one class (a unfinished, c complete, e errored or compensated, t terminated), latest created first.
--
-- asked: 1 class, 2 the entry in CREATED, without its class, before which to begin, or nil, 3 created_until or nil, 4 created_from
-- or nil, 5 statuses or nil, 6 workflow or nil, 7 queue or nil, 8 beginning of the id or nil, 9 how many at most, 10 how many to
-- look at. Returns where it stopped, '' at the end; then number, row, number, row …

local class, filtered = asked[1], asked[5] or asked[6] or asked[7] or asked[8]
local last = '[' .. class .. '\255'
if asked[2] then
  last = '(' .. class .. asked[2]
elseif asked[3] then
  last = '(' .. class .. time_text(asked[3])
end
local first = '[' .. class .. time_text(asked[4] or 0)
local statuses = {}
for _, status in ipairs(asked[5] or {}) do
  statuses[status] = true
end

local function matches(row)
  return (not asked[5] or statuses[row.S])
    and (not asked[6] or asked[6] == row.w)
    and (not asked[7] or asked[7] == row.q)
    and (not asked[8] or asked[8] == sub(row.y, 1, #asked[8]))
end

local looked = filtered and asked[10] or math.min(asked[9], asked[10])
local entries = redis.call('ZREVRANGEBYLEX', CREATED, last, first, 'LIMIT', 0, looked)
local wanted = {}
for index, entry in ipairs(entries) do
  wanted[index] = sub(entry, 14)
end
know_rows(wanted)
local found = { #entries == looked and sub(entries[#entries], 2) or '' }
for index, number in ipairs(wanted) do
  if packed[number] and (not filtered or matches(row_of(number))) then
    found[#found + 1] = number
    found[#found + 1] = packed[number]
    if #found > 2 * asked[9] then
      found[1] = sub(entries[index], 2)
      break
    end
  end
end
return found
