-- What every script begins with: the rows of runs, and what follows from changing them.
--
-- KEYS    the keys of one shard, in the order of perdure/store/redis/keys.py
-- ARGV[1] what is asked, as MessagePack; ARGV[2] 1 if `marking.lua` is to leave its mark, else empty; ARGV[3], ARGV[4] … texts
--         that are kept as they are, in the order they are needed
--
-- A row is unpacked once in a call, however often it is changed, and packed once, by `flush` at the end. Nothing may fail
-- after the first write: Redis does not undo what a script has done.
--
-- Letters: a row's fields are listed in rows.py. Status: q queued, r running, w waiting, p paused, c complete, e errored,
-- t terminated, u compensating, d compensated, f compensation_failed. Messages: e event, c child; capitals once they are read.

local META, IDS, RUNS, RECORDS, INBOX, SEEN, DUE, FAMILY, CREATED, EXPIRES, COUNTS, PLACES, MAIL = unpack(KEYS)
local LIMITED, QUEUES, DEDUP, PACES, DOCUMENTS = unpack(KEYS, 14)
local asked = cmsgpack.unpack(ARGV[1])
local format, sub = string.format, string.sub

local MANY = 4000 -- arguments of one command: Lua's stack ends at 8000
local ENDED = { c = 1, e = 2, t = 3, d = 2 } -- and the place of its retention in a row's h
local CLASS = { c = 'c', e = 'e', t = 't', d = 'e' } -- in CREATED; all others are a

local taken = 2
local function text()
  taken = taken + 1
  return ARGV[taken]
end

local function many(command, key, arguments)
  for first = 1, #arguments, MANY do
    redis.call(command, key, unpack(arguments, first, math.min(first + MANY - 1, #arguments)))
  end
end

local function fetch(key, fields)
  if #fields <= MANY then
    return #fields == 0 and {} or redis.call('HMGET', key, unpack(fields))
  end
  local found = {}
  for first = 1, #fields, MANY do
    for _, value in ipairs(redis.call('HMGET', key, unpack(fields, first, math.min(first + MANY - 1, #fields)))) do
      found[#found + 1] = value
    end
  end
  return found
end

-- A number as text that sorts like it: how many digits, then the digits.
local function number_text(n)
  local digits = format('%x', n)
  return string.char(48 + #digits) .. digits
end

-- Texts are not compared in here: how they compare follows from the server's language.
local function number_from(text)
  return tonumber(sub(text, 2), 16)
end

local function time_of(entry)
  return tonumber(sub(entry, 1, 12), 16)
end

-- The entry of a message in MAIL.
local function mail_entry(number, class, seq)
  return number .. ':' .. class .. number_text(seq)
end

local function time_text(at)
  return format('%012x', math.max(0, math.min(at, 281474976710655)))
end

-- Rows.

local numbers = {} -- id → number as text, or false
local packed = {} -- number → row as it is stored
local rows = {} -- number → row, or false
local number_of, before = {}, {} -- row → its number; row → what of it is indexed
local touched = {}
local changes = {} -- status → how many runs more or fewer have it
local records = {} -- field, record, field, record …: still to be written

local function know_ids(ids)
  local unknown = {}
  for _, id in ipairs(ids) do
    if numbers[id] == nil then
      numbers[id] = false
      unknown[#unknown + 1] = id
    end
  end
  for index, number in ipairs(fetch(IDS, unknown)) do
    numbers[unknown[index]] = number
  end
end

local function know_rows(wanted)
  local unknown = {}
  for _, number in ipairs(wanted) do
    if number and packed[number] == nil then
      packed[number] = false
      unknown[#unknown + 1] = number
    end
  end
  for index, row in ipairs(fetch(RUNS, unknown)) do
    packed[unknown[index]] = row
  end
end

local function know(ids)
  know_ids(ids)
  local wanted = {}
  for index, id in ipairs(ids) do
    wanted[index] = numbers[id]
  end
  know_rows(wanted)
end

-- The last letter of a run's lane: r leased or w not, capitals with a limit key; nil if it cannot become due.
local function letter_of(row)
  if ENDED[row.S] or row.S == 'p' then
    return nil
  elseif row.L then
    return row.o and 'R' or 'W'
  end
  return row.o and 'r' or 'w'
end

local function row_of(number)
  local row = rows[number]
  if row == nil then
    if packed[number] == nil then
      packed[number] = redis.call('HGET', RUNS, number)
    end
    row = packed[number] and cmsgpack.unpack(packed[number])
    rows[number] = row
    if row then
      number_of[row] = number
      before[row] = { row.S, row.d, row.x, letter_of(row), row.A }
    end
  end
  return row
end

local function find(id)
  if numbers[id] == nil then
    numbers[id] = redis.call('HGET', IDS, id)
  end
  return numbers[id] and row_of(numbers[id])
end

local function journal_of(row)
  local fields = {}
  for position = 0, row.j - 1 do
    fields[position + 1] = number_of[row] .. ':' .. position
  end
  return fetch(RECORDS, fields)
end

local function touch(row)
  if not touched[row] then
    touched[row] = true
    touched[#touched + 1] = row
  end
end

local function count(status, by)
  changes[status] = (changes[status] or 0) + by
end

-- Where a run stands in the indexes.

local known_lanes = {} -- queue → workflow → priority → letter → lane: most runs of a call share one

local function under(tree, key)
  local branch = tree[key]
  if not branch then
    branch = {}
    tree[key] = branch
  end
  return branch
end

local function lane_of(row, letter)
  local priority = math.max(-2147483647, math.min(row.p or 0, 2147483647))
  local known = under(under(under(known_lanes, row.q), row.w), priority)
  if not known[letter] then
    known[letter] = row.q .. '\0' .. format('%08x', 2147483648 - priority) .. '\0' .. row.w .. '\0' .. letter .. '\0'
  end
  return known[letter]
end

local function due_entry(row, letter, due)
  return due and letter and lane_of(row, letter) .. time_text(due) .. number_of[row]
end

-- What stands in LIMITED: beside an entry in DUE of a run with a limit key, and for an admitted run.
local function line_entry(queue, key, entry)
  return entry and 'l' .. queue .. '\0' .. key .. sub(entry, #queue + 1)
end

local function admitted_entry(queue, key, due, number)
  return 'a' .. queue .. '\0' .. (key or '') .. '\0' .. time_text(due) .. number
end

local function created_entry(row, status)
  return (CLASS[status] or 'a') .. time_text(row.a) .. number_of[row]
end

local function move(gone, added, old, new)
  if old ~= new then
    if old then
      gone[#gone + 1] = old
    end
    if new then
      added[#added + 1] = 0
      added[#added + 1] = new
    end
  end
end

local function flush_records()
  many('HSET', RECORDS, records)
  records = {}
end

-- Write what was changed. Once, at the end.
local function flush()
  flush_records()
  local put, undue, due, uncreated, created, unexpired, expiring = {}, {}, {}, {}, {}, {}, {}
  local unlimited, limited = {}, {}
  for _, row in ipairs(touched) do
    local number, old = number_of[row], before[row]
    packed[number] = cmsgpack.pack(row)
    put[#put + 1] = number
    put[#put + 1] = packed[number]
    local letter = letter_of(row)
    if old[4] ~= letter or old[2] ~= row.d then
      local was, is = due_entry(row, old[4], old[2]), due_entry(row, letter, row.d)
      move(undue, due, was, is)
      if row.L then
        move(unlimited, limited, line_entry(row.q, row.L, was), line_entry(row.q, row.L, is))
      end
    end
    if old[5] or row.A then
      local was = old[5] and old[2] and admitted_entry(row.q, row.L, old[2], number)
      move(unlimited, limited, was, row.A and row.d and admitted_entry(row.q, row.L, row.d, number))
    end
    if old[1] ~= row.S then
      count(old[1], -1)
      count(row.S, 1)
      if ENDED[old[1]] or ENDED[row.S] then
        move(uncreated, created, created_entry(row, old[1]), created_entry(row, row.S))
      end
    end
    if old[3] ~= row.x then
      if row.x then
        expiring[#expiring + 1] = row.x
        expiring[#expiring + 1] = number
      else
        unexpired[#unexpired + 1] = number
      end
    end
  end
  many('HSET', RUNS, put)
  many('ZREM', DUE, undue)
  many('ZADD', DUE, due)
  many('ZREM', LIMITED, unlimited)
  many('ZADD', LIMITED, limited)
  many('ZREM', CREATED, uncreated)
  many('ZADD', CREATED, created)
  many('ZREM', EXPIRES, unexpired)
  many('ZADD', EXPIRES, expiring)
  for status, by in pairs(changes) do
    if by ~= 0 then
      redis.call('HINCRBY', COUNTS, status, by)
    end
  end
end

-- Queues.

-- Which of some queues are gated; what is kept of a queue begins with p (paused), g (limited) or - (neither).
local function gated(queues)
  local found = {}
  for index, kept in ipairs(fetch(QUEUES, queues)) do
    found[queues[index]] = kept and sub(kept, 1, 1) ~= '-'
  end
  return found
end

-- The queues of a list that are not gated.
local function open_queues(queues)
  local is_gated, open = gated(queues), {}
  for _, queue in ipairs(queues) do
    if not is_gated[queue] then
      open[#open + 1] = queue
    end
  end
  return open
end
