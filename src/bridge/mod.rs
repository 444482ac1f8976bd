//! The bridge between nginx workers and storage drivers that run on threads of their own. Empty as yet: the
//! storages that need it come with it.
