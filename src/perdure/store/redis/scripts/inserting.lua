-- New runs.

-- What `insert` takes is a list of runs, each a list: 1 id, 2 status, 3 its entry in DUE or nil, 4 its entry in CREATED (both
-- without the number), 5 the id of its parent or nil, 6 how many records, 7 expires_at or nil, 8 messages or nil, each a list of
-- seq, letter and id, 9 limit key or nil, 10 dedup or nil: key, until or nil, whether it is replacing, latest_due_at or nil,
-- the due_at of a run that takes over from it, its fingerprint, 11 the end of the lease it is admitted under, or nil. Its texts:
-- the row, the records, the messages.

local function skip_texts(new)
  taken = taken + 1 + new[6] + #(new[8] or {})
end

-- Let a run that was not claimed yet begin with what a new one brought; `latest` is the latest due_at for it, or nil.
local function take_over(row, new, latest)
  local number, old, due, fingerprint = number_of[row], {}, new[10][5], new[10][6]
  flush_records()
  for position = new[6], row.j - 1 do
    old[#old + 1] = number .. ':' .. position
  end
  many('HDEL', RECORDS, old)
  text()
  for position = 0, new[6] - 1 do
    records[#records + 1] = number .. ':' .. position
    records[#records + 1] = text()
  end
  local static = cjson.decode(row.s)
  static[3] = fingerprint
  row.s = cjson.encode(static)
  row.j, row.d, row.t = new[6], latest and math.min(due, latest) or due, time_of(sub(new[4], 2))
  touch(row)
end

-- Keep what those were told who came upon a run, before another one changes it.
local function say(row, there, said)
  local now
  for place, number in pairs(there) do
    if number == number_of[row] and not said[place] then
      now = now or cmsgpack.pack(row)
      said[place] = now
    end
  end
end

-- Whether a run's journal begins with this record.
local function begins_with(row, record)
  flush_records()
  return redis.call('HGET', RECORDS, number_of[row] .. ':0') == record
end

-- The entries of dedup keys, by place in the list, of runs that are in the store and stand for a new one.
local function standing(list)
  local keys, places, firsts, found, last = {}, {}, {}, {}, taken
  for index, new in ipairs(list) do
    if new[10] then
      keys[#keys + 1] = new[10][1]
      places[#places + 1] = index
      firsts[index] = new[10][3] and new[6] > 0 and ARGV[last + 2]
    end
    last = last + 1 + new[6] + #(new[8] or {})
  end
  for index, entry in ipairs(fetch(DEDUP, keys)) do
    local kept, place = entry and kept_dedup(entry), places[index]
    local row = kept and row_of(kept.number)
    if row and not row.G then
      local at, first = time_of(sub(list[place][4], 2)), firsts[place]
      if stands(row, kept, at) or first and begins_with(row, first) then
        found[place] = kept
      end
    end
  end
  return found
end

-- Whose ids are taken, and by what; see `insert`.
local function taken_ids(list)
  local ids, there, fresh, stand_for = {}, {}, 0, standing(list)
  for index, new in ipairs(list) do
    ids[index] = new[1]
  end
  know_ids(ids)
  local elsewhere = redis.call('HLEN', PLACES) > 1 and fetch(PLACES, ids) or {}
  for index, id in ipairs(ids) do
    if numbers[id] then
      there[index], stand_for[index] = numbers[id], nil
    elseif elsewhere[index] then
      there[index], stand_for[index] = '@' .. string.match(elsewhere[index], '^%d+'), nil
    elseif stand_for[index] then
      there[index] = stand_for[index].number
    else
      fresh = fresh + 1
      numbers[id] = fresh -- so that a second one of this id finds it
    end
  end
  return there, stand_for, fresh
end

-- Queues of the new runs that are created with a worker: whether they are gated.
local function gates(list)
  local queues = {}
  for _, new in ipairs(list) do
    if new[2] == 'r' then
      queues[string.match(new[3], '^[^%z]*')] = true
    end
  end
  local names = {}
  for queue in pairs(queues) do
    names[#names + 1] = queue
  end
  return gated(names)
end

-- Leave a run for anyone that was to be created with a worker.
local function without_worker(new, number)
  local row = cmsgpack.unpack(packed[number])
  row.S, row.d, row.o, row.b, row.e = 'q', row.a, nil, nil, nil
  packed[number] = cmsgpack.pack(row)
  new[2] = 'q'
  new[3] = lane_of(row, letter_of(row)) .. time_text(row.d)
end

-- What a run with a limit key, or under an admission, has in LIMITED.
local function line_up(new, number, limited)
  local queue = string.match(new[3], '^[^%z]*')
  move({}, limited, nil, new[9] and line_entry(queue, new[9], new[3] .. number))
  move({}, limited, nil, new[11] and admitted_entry(queue, new[9], new[11], number))
end

local function keep_messages(new, number, inbox, seen, mail)
  for _, message in ipairs(new[8] or {}) do
    inbox[#inbox + 1] = number .. ':' .. message[1]
    inbox[#inbox + 1] = message[2] .. message[3] .. text()
    seen[#seen + 1] = number .. ':' .. message[3]
    seen[#seen + 1] = message[1]
    local letter = string.lower(message[2])
    move({}, mail, nil, letter == message[2] and mail_entry(number, 'u', message[1]))
    move({}, mail, nil, letter == 'c' and mail_entry(number, 'c', message[1]))
  end
end

-- `insert` for runs of which no two have one dedup key; `offset` is how many came before these.
local function insert_some(list, offset, are_moved, there, waiting, said)
  local stood, stand_for, fresh = taken_ids(list)
  local is_gated = are_moved and {} or gates(list)
  local n = fresh > 0 and redis.call('HINCRBY', META, 'n', fresh) - fresh
  local named, put, due, created, family, expiring, inbox, seen, mail = {}, {}, {}, {}, {}, {}, {}, {}, {}
  local limited, deduped = {}, {}
  for index, new in ipairs(list) do
    local kept = stand_for[index]
    if stood[index] then
      if kept and new[10][3] and is_unclaimed(row_of(kept.number)) then
        say(row_of(kept.number), there, said)
        take_over(row_of(kept.number), new, kept.latest)
      else
        skip_texts(new)
      end
      there[offset + index] = kept and stood[index] or numbers[new[1]] or stood[index]
    else
      n = n + 1
      local number = number_text(n)
      numbers[new[1]], packed[number] = number, text()
      if new[2] == 'r' and is_gated[string.match(new[3], '^[^%z]*')] then
        without_worker(new, number)
        waiting[#waiting + 1] = offset + index
      end
      named[#named + 1] = new[1]
      named[#named + 1] = number
      put[#put + 1] = number
      put[#put + 1] = packed[number]
      for position = 0, new[6] - 1 do
        records[#records + 1] = number .. ':' .. position
        records[#records + 1] = text()
      end
      move({}, due, nil, new[3] and new[3] .. number)
      move({}, created, nil, new[4] .. number)
      move({}, family, nil, new[5] and new[5] .. '\0' .. number)
      if new[3] and (new[9] or new[11]) then
        line_up(new, number, limited)
      end
      if new[10] then
        deduped[#deduped + 1] = new[10][1]
        deduped[#deduped + 1] = dedup_text(number, new[10])
      end
      if new[7] then
        expiring[#expiring + 1] = new[7]
        expiring[#expiring + 1] = number
      end
      keep_messages(new, number, inbox, seen, mail)
      count(new[2], 1)
    end
  end
  many('HSET', IDS, named)
  many('HSET', RUNS, put)
  many('ZADD', DUE, due)
  many('ZADD', LIMITED, limited)
  many('HSET', DEDUP, deduped)
  many('ZADD', CREATED, created)
  many('ZADD', FAMILY, family)
  many('ZADD', EXPIRES, expiring)
  many('HSET', INBOX, inbox)
  many('HSET', SEEN, seen)
  many('ZADD', MAIL, mail)
end

-- Keep the runs whose ids are free and for which no other stands; `are_moved` if they are to stay as they were elsewhere.
-- Returns, by place in the list, of those that are not kept the number of the run that has the id or stands for it, or '@' and
-- the shard on which it is, if that is another; the places of those that are kept, but left without the worker they were for; and,
-- by place, the row as it was for those that came upon a run before a later one of the list changed it.
local function insert(list, are_moved)
  local there, waiting, said, some, keys, offset = {}, {}, {}, {}, {}, 0
  for index, new in ipairs(list) do
    local key = new[10] and new[10][1]
    if key and keys[key] then
      insert_some(some, offset, are_moved, there, waiting, said)
      some, keys, offset = {}, {}, index - 1
    end
    some[#some + 1] = new
    if key then
      keys[key] = true
    end
  end
  insert_some(some, offset, are_moved, there, waiting, said)
  return there, waiting, said
end
