-- Returns a page of records and their uses: src/store/redis/api_key/store.rs.
-- KEYS: the records, the uses, the index to list.
-- ARGV: number, '-' or '(' and the last member of the previous page, the maximum number of records.
-- Returns number, records, uses, 1 if there are more.
local places = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[2], '+', 'LIMIT', 0, ARGV[3] + 1)
local more = 0
if #places > tonumber(ARGV[3]) then
  table.remove(places)
  more = 1
end
if #places == 0 then
  return {ARGV[1], {}, {}, 0}
end
local ids = {}
for number, place in ipairs(places) do
  ids[number] = place:sub(9)
end
local records = redis.call('HMGET', KEYS[1], unpack(ids))
return {ARGV[1], records, redis.call('HMGET', KEYS[2], unpack(ids)), more}
