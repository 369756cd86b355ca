-- What can become due, by leaps.

-- Call `each` with every lane between two bounds: its text, priority and workflow, and when its first run is due.
local function lanes(first, last, each)
  while true do
    local entry = redis.call('ZRANGEBYLEX', DUE, first, last, 'LIMIT', 0, 1)[1]
    if not entry then
      return
    end
    local lane, queue, priority, workflow, letter = string.match(entry, '^(([^%z]*)%z(%x*)%z([^%z]*)%z([rw])%z)')
    each(lane, { queue = queue, priority = priority, workflow = workflow, letter = letter }, time_of(sub(entry, #lane + 1)))
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
    lanes('[' .. queue .. '\0', '(' .. queue .. '\1', function(lane, of, due)
      if not workflows or known[of.workflow] then
        each(lane, of, due)
      end
    end)
  end
end
