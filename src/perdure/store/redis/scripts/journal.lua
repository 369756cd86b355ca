-- Look at a journal.
--
-- asked: 1 run's id, 2 position after which to begin, 3 how many at most, or nil. Returns the records.

local row, fields = find(asked[1]), {}
if row then
  local first = math.max(asked[2] + 1, 0)
  for position = first, math.min(row.j, first + (asked[3] or row.j)) - 1 do
    fields[#fields + 1] = number_of[row] .. ':' .. position
  end
end
return fetch(RECORDS, fields)
