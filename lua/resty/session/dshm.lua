---
-- Sessions in ngx-distributed-shm, a memory that several servers share.
--
-- @module resty.session.dshm
-- @license BSD-2-Clause

return require("resty.session.bridged").module "dshm"
