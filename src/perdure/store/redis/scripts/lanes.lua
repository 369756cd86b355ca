-- What can become due, by leaps.

-- Call `each` with every lane between two bounds of a key: its text, what it is of, and when its first run is due. All of them
-- begin with `head`; nil for whatever stands before the first <0>.
local function lanes(key, first, last, head, each)
  while true do
    local entry = redis.call('ZRANGEBYLEX', key, first, last, 'LIMIT', 0, 1)[1]
    if not entry then
      return
    end
    local begin = head or string.match(entry, '^[^%z]*%z')
    local priority, workflow, letter, at = string.match(entry, '^(%x*)%z([^%z]*)%z([rwRW])%z()', #begin + 1)
    local lane = sub(entry, 1, at - 1)
    local of = { queue = sub(begin, 1, -2), priority = priority, workflow = workflow, letter = letter }
    each(lane, of, time_of(sub(entry, at)))
    first = '(' .. lane .. '\255'
  end
end

local function as_set(list)
  local set = {}
  for _, value in ipairs(list or {}) do
    set[value] = true
  end
  return set
end

-- Call `each` with every lane of these queues and, unless nil, of these workflows.
local function wanted_lanes(queues, workflows, each)
  local known = as_set(workflows)
  for queue in pairs(as_set(queues)) do
    lanes(DUE, '[' .. queue .. '\0', '(' .. queue .. '\1', queue .. '\0', function(lane, of, due)
      if not workflows or known[of.workflow] then
        each(lane, of, due)
      end
    end)
  end
end
