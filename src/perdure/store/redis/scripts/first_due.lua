-- What is due in some lanes, highest priority first, then longest due.

-- Add a lane to those in which to look: lists of lanes by priority, and the priorities as a list.
local function add_lane(levels, lane, of)
  local priority = tonumber(of.priority, 16)
  if not levels.by[priority] then
    levels.by[priority] = {}
    table.insert(levels.priorities, priority)
  end
  table.insert(levels.by[priority], lane)
end

local function new_levels()
  return { by = {}, priorities = {} }
end

local function is_before(one, other)
  local first, second = time_of(one), time_of(other)
  return first < second or (first == second and number_from(sub(one, 13)) < number_from(sub(other, 13)))
end

-- The first that are due in lanes of a key: the numbers, and time and number as they stand there.
local function first_due(levels, key, now, most)
  local due, entries_of_due = {}, {}
  table.sort(levels.priorities)
  for _, priority in ipairs(levels.priorities) do
    local left, here = most - #due, {}
    if left > 0 then
      for _, lane in ipairs(levels.by[priority]) do
        local entries =
          redis.call('ZRANGEBYLEX', key, '[' .. lane, '(' .. lane .. time_text(now + 1), 'LIMIT', 0, left)
        for _, entry in ipairs(entries) do
          here[#here + 1] = sub(entry, #lane + 1)
        end
      end
      if #levels.by[priority] > 1 then
        table.sort(here, is_before)
      end
      for index = 1, math.min(left, #here) do
        entries_of_due[#due + 1] = here[index]
        due[#due + 1] = sub(here[index], 13)
      end
    end
  end
  return due, entries_of_due
end
