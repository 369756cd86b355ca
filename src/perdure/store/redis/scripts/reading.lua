-- Journals and inboxes, as much as a bound allows.

local FIRST = 64 -- how many are fetched before it is known how long they are

-- How many to fetch next: what may still come, at the length of those that came.
local function next_few(fetched, bytes, most_bytes)
  if fetched == 0 then
    return FIRST
  end
  return math.max(1, math.min(1000, math.floor((most_bytes - bytes) * fetched / math.max(bytes, 1))))
end

-- Put records from a position on into a list, about so many or so many bytes at most. Returns the position behind them and
-- their bytes, or nothing if one is missing.
local function read_journal(row, position, into, most, most_bytes)
  local prefix, first, bytes, had = number_of[row] .. ':', position, 0, #into
  local stop = math.min(row.j, position + FIRST)
  repeat
    local fields = {}
    for at = position, stop - 1 do
      fields[#fields + 1] = prefix .. at
    end
    local came = fetch(RECORDS, fields)
    for index = 1, #fields do
      local record = came[index]
      if not record then
        for place = #into, had + 1, -1 do
          into[place] = nil
        end
        return
      end
      into[had + position - first + index] = record
      bytes = bytes + #record
    end
    position = stop
    stop = math.min(row.j, position + next_few(position - first, bytes, most_bytes))
  until position >= row.j or position - first >= most or bytes >= most_bytes
  return position, bytes
end

-- Put unread messages behind one seq, up to another, into a list (seq, message, …), about so many or so many bytes at most.
-- Returns their bytes.
local function read_inbox(row, after, last, into, most, most_bytes)
  local count, bytes = 0, 0
  while count == 0 or (count < most and bytes < most_bytes) do
    local seqs = unread_seqs(row, after, last, next_few(count, bytes, most_bytes))
    if #seqs == 0 then
      break
    end
    for index, message in ipairs(fetch(INBOX, inbox_fields(row, seqs))) do
      into[#into + 1] = seqs[index]
      into[#into + 1] = message
      bytes = bytes + #message
    end
    count = count + #seqs
    after = seqs[#seqs]
  end
  return bytes
end
