-- Look at runs.
--
-- asked: a list of ids. Returns for each its row and, if it has ended, its last record; nil for what there is not.

know(asked)
local found, fields, places = {}, {}, {}
for index, id in ipairs(asked) do
  local number = numbers[id]
  found[2 * index - 1] = number and packed[number]
  found[2 * index] = false
  local row = number and row_of(number)
  if row and ENDED[row.S] then
    fields[#fields + 1] = number .. ':' .. (row.j - 1)
    places[#places + 1] = 2 * index
  end
end
for index, record in ipairs(fetch(RECORDS, fields)) do
  found[places[index]] = record
end
return found
