-- Runs that end before their time.

local known_ages = {} -- a row's h → its numbers

local function expiry(row, status, at)
  local ages = known_ages[row.h]
  if not ages then
    ages = { string.match(row.h, '^(-?%d*),(-?%d*),(-?%d*)$') }
    known_ages[row.h] = ages
  end
  local age = tonumber(ages[ENDED[status]])
  return age and at + age
end

local function end_run(row, now)
  row.S, row.t, row.f, row.x = 't', now, now, expiry(row, 't', now)
  row.e = (row.e or 0) + 1
  row.d, row.o, row.A, row.z, row.W, row.g = nil, nil, nil, nil, nil, nil
  touch(row)
end

-- What is unfinished below a run, but for the detached and what is below them, oldest first.
local function unfinished_below(run)
  local family, fresh, below, unfinished = { [run] = true }, { run.y }, {}, {}
  while #fresh > 0 do
    local grown = {}
    for _, id in ipairs(fresh) do
      local children = redis.call('ZRANGEBYLEX', FAMILY, '[' .. id .. '\0', '(' .. id .. '\1')
      for index, entry in ipairs(children) do
        children[index] = sub(entry, #id + 2)
      end
      know_rows(children)
      for _, number in ipairs(children) do
        local row = row_of(number)
        if not row.D and not family[row] then
          family[row] = true
          below[#below + 1] = row
          grown[#grown + 1] = row.y
        end
      end
    end
    fresh = grown
  end
  table.sort(below, function(one, other)
    return number_from(number_of[one]) < number_from(number_of[other])
  end)
  for _, row in ipairs(below) do
    if not ENDED[row.S] then
      unfinished[#unfinished + 1] = row
    end
  end
  return unfinished
end

-- End these; returns their ids, oldest first.
local function end_descendants(run, now)
  local ended = unfinished_below(run)
  for index, row in ipairs(ended) do
    end_run(row, now)
    ended[index] = row.y
  end
  return ended
end

-- End a run and its descendants, and tell a parent that waits; `notice` is the payload of that. Returns who ended.
local function terminate(id, now, notice)
  local row = find(id)
  if not row or ENDED[row.S] then
    return {}
  end
  local ended = end_descendants(row, now)
  table.insert(ended, 1, id)
  end_run(row, now)
  if row.P and row.K then
    post(row.P, 'c', id, message_text(row.K, notice, now, 'error', id), now, nil)
  end
  return ended
end
