---
-- Profiles of many configurations, as gateways with a configuration for each tenant have them.
--
-- Comparing a configuration with each of a thousand profiles would take longer than making a new
-- one. So a profile is kept under a key: the options in which tenants differ, as one text. Only
-- profiles with the same key are compared by value.
--
-- There are two generations. A profile that is found in the old one moves to the young one. When
-- the young one is full, or has been filled for some minutes, it becomes the old one, so what was
-- not used for that long goes: each profile keeps its storage, and so perhaps connections.
--
-- @module resty.session.kept
-- @license BSD-2-Clause

local options = require "resty.session.options"
local storages = require "resty.session.storages"

local equals = options.equals
local own_section = storages.own_section
local now = ngx.now
local type = type

-- How many profiles a generation holds. With 110 bytes of options, one takes 8 KB.
local MAX_PROFILES = 2000
-- How many profiles may have the same key.
local MAX_SAME = 16
-- For how long a generation is filled, in seconds.
local MAX_AGE = 300

local kept = {}

---@class resty.session.kept.generation
---@field count integer how many profiles it holds
---@field since number when it was made, in seconds since 1970
---@field lists table<string, resty.session.kept.list> the profiles, by their keys

---@class resty.session.kept.list
---@field oldest integer the place of the profile that is replaced next, if the list is full
---@field [integer] resty.session.profile

---@return resty.session.kept.generation
local function new_generation()
  return { count = 0, since = now(), lists = {} }
end

local young, old = new_generation(), new_generation()

-- Returns an option as a part of a key.
local function part(value)
  local kind = type(value)
  return (kind == "string" or kind == "number") and value or ""
end

-- Returns a configuration's key, or nil if it has storages of the program's own: each may be a new
-- one, so no other configuration would ever be equal.
local function key_of(configuration)
  if type(configuration.storage) == "table" or type(configuration.revocation) == "table" then
    return nil
  end
  local key = part(configuration.cookie_name) .. "\0" .. part(configuration.cookie_domain) .. "\0"
           .. part(configuration.audience) .. "\0" .. part(configuration.secret) .. "\0" .. part(configuration.ikm)
  local section = own_section(configuration.storage, configuration)
  if section then
    key = key .. "\0" .. part(section.prefix) .. "\0" .. part(section.suffix) .. "\0" .. part(section.host) .. "\0"
       .. part(section.database)
  end
  return key
end

local function find_in(generation, key, configuration, base)
  local list = generation.lists[key]
  for i = 1, list and #list or 0 do
    if list[i].base == base and equals(configuration, list[i].configuration) then
      return list[i]
    end
  end
end

local function add(key, profile)
  if young.count >= MAX_PROFILES or now() - young.since > MAX_AGE then
    young, old = new_generation(), young
  end
  local list = young.lists[key]
  if not list then
    list = { oldest = 1 }
    young.lists[key] = list
  end
  if #list < MAX_SAME then
    list[#list + 1] = profile
    young.count = young.count + 1
  else
    list[list.oldest] = profile
    list.oldest = list.oldest % MAX_SAME + 1
  end
end

--- Finds the profile of a configuration.
---@param configuration table
---@param base any what else the profile depends on
---@return resty.session.profile? profile
function kept.find(configuration, base)
  local key = key_of(configuration)
  if not key then
    return nil
  end
  local profile = find_in(young, key, configuration, base)
  if not profile then
    profile = find_in(old, key, configuration, base)
    if profile then
      add(key, profile)
    end
  end
  return profile
end

--- Keeps a profile.
---@param profile resty.session.profile
function kept.add(profile)
  local key = key_of(profile.configuration)
  if key then
    add(key, profile)
  end
end

return kept
