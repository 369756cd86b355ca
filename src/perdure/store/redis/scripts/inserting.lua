-- New runs.

-- Keep the runs whose ids are free. Each is a list: 1 id, 2 status, 3 its entry in DUE or nil, 4 its entry in CREATED (both
-- without the number), 5 the id of its parent or nil, 6 how many records, 7 expires_at or nil, 8 messages or nil, each
-- a list of seq, letter and id. Its texts: the row, the records, the messages. Returns, by place in the list, of those whose
-- ids are not free the number of the run that has it, or '@' and the shard on which it is, if that is another.
local function insert(list)
  local ids, there, fresh = {}, {}, 0
  for index, new in ipairs(list) do
    ids[index] = new[1]
  end
  know_ids(ids)
  local elsewhere = redis.call('HLEN', PLACES) > 1 and fetch(PLACES, ids) or {}
  for index, id in ipairs(ids) do
    if numbers[id] then
      there[index] = numbers[id]
    elseif elsewhere[index] then
      there[index] = '@' .. string.match(elsewhere[index], '^%d+')
    else
      fresh = fresh + 1
      numbers[id] = fresh -- so that a second one of this id finds it
    end
  end
  if fresh == 0 then
    for index, new in ipairs(list) do
      taken = taken + 1 + new[6] + #(new[8] or {})
    end
    return there
  end
  local n = redis.call('HINCRBY', META, 'n', fresh) - fresh
  local named, put, due, created, family, expiring, inbox, seen, mail = {}, {}, {}, {}, {}, {}, {}, {}, {}
  for index, new in ipairs(list) do
    if there[index] then
      there[index] = numbers[new[1]] or there[index]
      taken = taken + 1 + new[6] + #(new[8] or {})
    else
      n = n + 1
      local number = number_text(n)
      numbers[new[1]], packed[number] = number, text()
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
      if new[7] then
        expiring[#expiring + 1] = new[7]
        expiring[#expiring + 1] = number
      end
      for _, message in ipairs(new[8] or {}) do
        inbox[#inbox + 1] = number .. ':' .. message[1]
        inbox[#inbox + 1] = message[2] .. message[3] .. text()
        seen[#seen + 1] = number .. ':' .. message[3]
        seen[#seen + 1] = message[1]
        local letter = string.lower(message[2])
        move({}, mail, nil, letter == message[2] and mail_entry(number, 'u', message[1]))
        move({}, mail, nil, letter == 'c' and mail_entry(number, 'c', message[1]))
      end
      count(new[2], 1)
    end
  end
  many('HSET', IDS, named)
  many('HSET', RUNS, put)
  many('ZADD', DUE, due)
  many('ZADD', CREATED, created)
  many('ZADD', FAMILY, family)
  many('ZADD', EXPIRES, expiring)
  many('HSET', INBOX, inbox)
  many('HSET', SEEN, seen)
  many('ZADD', MAIL, mail)
  return there
end
