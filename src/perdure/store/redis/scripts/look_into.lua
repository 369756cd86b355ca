-- Look for what to choose from in a gated queue.
--
-- asked: 1 queue, 2 workflows or nil, 3 now, 4 how many limit keys, 5 how many runs of each, 6 the limit key behind which to
-- begin, or nil, 7 how many limit keys to look at, 8 after how many candidates to stop. Returns: the last key looked at, nil at
-- the end; the admitted runs under a lease that holds (key, count, …); candidates, each a list: id, priority, due_at, limit
-- key, 1 if it was not begun since it was created or restarted; and in the same form due runs that are admitted all the same.

local PAGE = 100 -- admitted runs that are looked at at once
local queue, now, most_keys, each, after = asked[1], asked[3], asked[4], asked[5], asked[6]
local known, candidates, found, lost = asked[2] and as_set(asked[2]), {}, 0, {}

-- Every worker asks, and there may be thousands: what one limit key has many of is counted without being looked at.
local function admitted()
  local counts, keys, told = {}, {}, {}
  local first, entries = '[a' .. queue .. '\0', nil
  repeat
    entries = redis.call('ZRANGEBYLEX', LIMITED, first, '(a' .. queue .. '\1', 'LIMIT', 0, PAGE)
    local key, first_key = nil, nil
    for _, entry in ipairs(entries) do
      local due
      key, due = string.match(entry, '^([^%z]*)%z(%x+)', #queue + 3)
      first_key = first_key or key
      if time_of(due) <= now then
        lost[#lost + 1] = due
      end
      if not counts[key] then
        keys[#keys + 1] = key
      end
      counts[key] = (counts[key] or 0) + (time_of(due) > now and 1 or 0)
    end
    first = #entries > 0 and '(' .. entries[#entries]
    if #entries == PAGE and key == first_key then
      local head = 'a' .. queue .. '\0' .. key
      counts[key] = redis.call('ZLEXCOUNT', LIMITED, '[' .. head .. '\0' .. time_text(now + 1), '(' .. head .. '\1')
      first = '(' .. head .. '\1'
    end
  until #entries < PAGE
  for _, key in ipairs(keys) do
    if counts[key] > 0 then
      told[#told + 1] = key
      told[#told + 1] = counts[key]
    end
  end
  return told
end

local function as_candidate(row)
  return { row.y, row.p or 0, row.d, row.L or '', row.b and 0 or 1 }
end

-- The first of the runs that were admitted and are in nobody's hands.
local function begun()
  local numbers, told = {}, {}
  table.sort(lost, is_before)
  for index, entry in ipairs(lost) do
    numbers[index] = sub(entry, 13)
  end
  know_rows(numbers)
  for _, number in ipairs(numbers) do
    local row = row_of(number)
    if #told < each and row and letter_of(row) and row.d <= now and (not known or known[row.w]) then
      told[#told + 1] = as_candidate(row)
    end
  end
  return told
end

-- The first of what is due in some lanes, but for entries that lead to no run, or to one that is not due.
local function present(levels, key)
  local missing, had, numbers = 0, nil, nil
  repeat
    local all = first_due(levels, key, now, each + missing)
    know_rows(all)
    had, numbers = missing, {}
    for _, number in ipairs(all) do
      local row = row_of(number)
      if row and letter_of(row) and row.d and row.d <= now then
        numbers[#numbers + 1] = number
      end
    end
    missing = #all - #numbers
  until missing == had
  return numbers
end

-- Put what is due of one limit key on the list; whether there is anything, but no more room for it.
local function is_one_too_many(key, first, last, head)
  local levels, has_key = new_levels(), key == DUE and { r = true, w = true }
  lanes(key, first, last, head, function(lane, of, due)
    if due <= now and (not known or known[of.workflow]) and (not has_key or has_key[of.letter]) then
      add_lane(levels, lane, of)
    end
  end)
  local numbers = #levels.priorities > 0 and present(levels, key) or {}
  if #numbers == 0 or found == most_keys then
    return #numbers > 0
  end
  found = found + 1
  for _, number in ipairs(numbers) do
    candidates[#candidates + 1] = as_candidate(row_of(number))
  end
  return false
end

local start = 'l' .. queue .. '\0'
local first, last_key, looked = '[' .. start, after or '', 0
if after then
  first = '(' .. start .. after .. '\1'
else
  is_one_too_many(DUE, '[' .. queue .. '\0', '(' .. queue .. '\1', queue .. '\0')
end
while #candidates < asked[8] do
  local entry = redis.call('ZRANGEBYLEX', LIMITED, first, '(l' .. queue .. '\1', 'LIMIT', 0, 1)[1]
  if not entry then
    last_key = false
    break
  end
  local key = string.match(entry, '^[^%z]*', #start + 1)
  local head = start .. key .. '\0'
  first = '(' .. start .. key .. '\1'
  looked = looked + 1
  if looked > asked[7] or is_one_too_many(LIMITED, '[' .. head, first, head) then
    break
  end
  last_key = key
end
local counts = admitted()
return { last_key, counts, candidates, begun() }
