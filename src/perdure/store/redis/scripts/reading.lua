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
  local number, first, bytes = number_of[row], position, 0
  while position < row.j and (position == first or (position - first < most and bytes < most_bytes)) do
    local fields = {}
    for at = position, math.min(row.j, position + next_few(position - first, bytes, most_bytes)) - 1 do
      fields[#fields + 1] = number .. ':' .. at
    end
    local came = fetch(RECORDS, fields)
    for index = 1, #fields do
      if not came[index] then
        for _ = 1, position - first do
          into[#into] = nil
        end
        return
      end
    end
    for _, record in ipairs(came) do
      into[#into + 1] = record
      bytes = bytes + #record
    end
    position = position + #fields
  end
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
