-- Put messages into inboxes.
--
-- asked: 1 now, 2 capacity, 3 a list of messages: run's id, letter, message's id; the texts are the messages. Returns a
-- letter for each.

local ids, posted = {}, {}
for index, message in ipairs(asked[3]) do
  ids[index] = message[1]
end
know(ids)
for index, message in ipairs(asked[3]) do
  posted[index] = post(message[1], message[2], message[3], text(), asked[1], asked[2])
end
flush()
return posted
