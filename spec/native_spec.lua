-- The types that language servers are told of the native module are those of the module.

local native = require "resty.session.native"
local support = require "spec.support"

local PREFIX = "resty.session.native"

-- Iterates over the lines of modules in types/.
local function lines_of(modules)
  return coroutine.wrap(function()
    for _, module in ipairs(modules) do
      for line in io.lines((assert(package.searchpath("types." .. module, package.path)))) do
        coroutine.yield(line)
      end
    end
  end)
end

-- What types/ says: by a function's name its parameters, by a class's name its fields and whether
-- each may be nil.
local function documented()
  local functions, classes = {}, {}
  local class, params, of_type
  for line in lines_of({ PREFIX, PREFIX .. "_tables" }) do
    local named = line:match("^%-%-%-@class ([%w_.]+)")
    local field, field_type = line:match("^%-%-%-@field ([%w_]+) (%S+)")
    local param = line:match("^%-%-%-@param ([%w_.]+)")
    local name, signature = line:match("^function native%.([%w_.]+)%((.*)%) end$")
    local assigned = line:match("^native%.([%w_.]+) = nil$")
    if named then
      class = {}
      classes[named:sub(#PREFIX + 2)] = class
    elseif field then
      class[field] = field_type:sub(-1) == "?" and "optional" or "given"
    elseif param then
      table.insert(params, param)
    elseif name then
      functions[name] = { signature = signature, params = table.concat(params, ", ") }
    elseif assigned then
      functions[assigned] = of_type and {} or nil
    end
    of_type = line:match("^%-%-%-@type") or of_type and assigned == nil
    if not line:match("^%-%-%-") then
      params, of_type = {}, nil
    end
  end
  return functions, classes
end

-- The names of all functions in a table and in those in it, and of its other values.
local function present(module, before, functions, values)
  for name, value in pairs(module) do
    if type(value) == "function" then
      functions[before .. name] = true
    elseif type(value) == "table" and name == name:lower() then
      present(value, before .. name .. ".", functions, values)
    else
      values[before .. name] = true
    end
  end
  return functions, values
end

local function keys(t)
  local names = {}
  for name in pairs(t) do
    table.insert(names, name)
  end
  table.sort(names)
  return names
end

describe("the types of the native module", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  local functions, classes = documented()
  local real, values = present(native, "", {}, {})

  -- A table's fields are those that its class names; one that may be nil may be missing.
  local function conforms(class, t)
    assert.is_table(t)
    for name in pairs(t) do
      assert.is_truthy(classes[class][name], class .. " has no " .. name)
    end
    for name, presence in pairs(classes[class]) do
      assert.is_true(presence == "optional" or t[name] ~= nil, name .. " is missing in " .. class)
    end
  end

  it("name each of its functions and no other", function()
    assert.same(keys(real), keys(functions))
  end)

  it("name its other values", function()
    for name in pairs(values) do
      local class, field = name:match("^(.-)%.?([^.]+)$")
      assert.is_truthy(classes[class][field], name)
    end
    for _, class in ipairs { "", "bridge", "storages", "utils", "instance" } do
      for field in pairs(classes[class]) do
        assert.is_true(values[class == "" and field or class .. "." .. field], field)
      end
    end
  end)

  it("describe each parameter", function()
    for name, described in pairs(functions) do
      assert.equal(described.signature, described.params, name)
    end
  end)

  it("name the fields of configurations, headers and other tables", function()
    conforms("configuration", native.init({ secret = "a secret of the specs", subject = "subject" }, nil, false))
    conforms("next", native.NEXT)
    conforms("counts", native.bridge.counts())
    browser:sign_in()
    conforms("header", native.header_fields(browser.cookies.session))
  end)
end)
