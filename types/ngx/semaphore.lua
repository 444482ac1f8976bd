---@meta ngx.semaphore

-- OpenResty's own, as far as it is used here.

---@class ngx.semaphore
local semaphore = {}

---@param count integer? resources to begin with
---@return ngx.semaphore? semaphore
---@return string? err
function semaphore.new(count) end

---@param count integer? resources to add
function semaphore:post(count) end

---@param limit number seconds
---@return true? ok
---@return string? err
function semaphore:wait(limit) end

---@return integer count of resources; negative for threads that wait
function semaphore:count() end

return semaphore
