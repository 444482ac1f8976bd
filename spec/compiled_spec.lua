-- LuaJIT interprets a function that holds something which it cannot compile, and so do its callers.
-- That costs a tenth of a save, and nothing else tells.

local session = require "resty.session"
local support = require "spec.support"

local found, vmdef = pcall(require, "jit.vmdef")
local attach = jit.attach
local function_info = require("jit.util").funcinfo

-- Returns what LuaJIT could not compile while a function ran: reasons and places in the library.
local function reasons(act)
  local aborts = {}
  -- Called while LuaJIT records a trace: it may hardly do anything, not even look at a global.
  local function on_trace(what, _, func, pc, code, argument)
    if what == "abort" then
      aborts[#aborts + 1] = { func, pc, code, argument }
    end
  end
  attach(on_trace, "trace")
  for _ = 1, 3000 do
    act()
  end
  attach(on_trace)
  local texts, known = {}, {}
  for _, abort in ipairs(aborts) do
    local func, pc, code, argument = unpack(abort)
    local text = (vmdef.traceerr[code] or ""):format(argument) .. " at " .. tostring(function_info(func, pc).loc)
    if text:find("NYI: bytecode", 1, true) and not known[text] then
      known[text] = true
      table.insert(texts, text)
    end
  end
  return texts
end

describe("LuaJIT compiles", function()
  local browser

  support.fresh(function(fresh)
    browser = fresh
  end)

  local function signed_in()
    local s = session.new()
    s:set_data({ user = "ada", roles = { "admin" } })
    s:set_subject("ada")
    assert(s:save())
    return s
  end

  if not found then
    return -- this LuaJIT comes without its tables of names
  end

  -- Otherwise nothing would tell that the specs below can fail.
  it("no function with a closure", function()
    assert.matches("^NYI: bytecode", reasons(function() return function() browser = browser end end)[1])
  end)

  it("an open", function()
    signed_in()
    browser:next()
    -- Specs' own variables are a table, which is read in another way than a request.
    ngx.req.set_header("Cookie", browser.var.http_cookie)
    session.__set_ngx_var(ngx.var)
    assert.same({}, reasons(function() assert(session.open()) end))
  end)

  it("a save", function()
    assert.same({}, reasons(function()
      signed_in()
      browser:next()
    end))
  end)

  it("a touch and a refresh", function()
    local s = signed_in()
    assert.same({}, reasons(function()
      assert(s:touch())
      assert(s:refresh())
      browser:next()
    end))
  end)
end)
