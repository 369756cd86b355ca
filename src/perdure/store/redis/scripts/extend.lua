-- Move the ends of leases.
--
-- asked: 1 now, 2 a list of leases: run's id, epoch, until, progress or nil. Returns for each -1 if it is lost, else twice the
-- run's inbox_seq, and one more if the run is pausing.

local now, ids, extended = asked[1], {}, {}
for index, lease in ipairs(asked[2]) do
  ids[index] = lease[1]
end
know(ids)
for index, lease in ipairs(asked[2]) do
  local row = find(lease[1])
  if not row or not row.o or (row.e or 0) ~= lease[2] then
    extended[index] = -1
  else
    extended[index] = 2 * (row.m or 0) + (row.z and 1 or 0)
    row.g = lease[4] or row.g
    row.t = now
    if lease[3] > now then
      row.d = lease[3]
    else
      row.S = row.z and 'p' or row.S == 'u' and 'u' or 'q'
      row.A = row.S == 'q' and row.A or nil
      row.d, row.o, row.z = now, nil, nil
    end
    touch(row)
  end
end
flush()
return extended
