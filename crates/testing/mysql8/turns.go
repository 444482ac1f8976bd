package main

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dolthub/vitess/go/mysql"
	"github.com/dolthub/vitess/go/sqltypes"
)

// Connections take turns: a transaction waits until no other is open. Tables in memory do not lock
// rows, so without this the later of two transactions undoes what the earlier has written.
type turns struct {
	mysql.Handler
	turn sync.Mutex
	// The connection whose transaction is open, which has the turn; 0 if no transaction is open.
	open atomic.Uint32
}

func takeTurns(handler mysql.Handler) (mysql.Handler, error) {
	return &turns{Handler: handler}, nil
}

// Runs a statement in a turn, which lasts until the transaction ends that it begins or is part of.
func (t *turns) run(c *mysql.Conn, query string, statement func() error) error {
	inTransaction := t.open.Load() == c.ConnectionID
	if !inTransaction {
		t.turn.Lock()
	}
	err := statement()
	switch strings.ToUpper(strings.TrimSpace(query)) {
	case "START TRANSACTION":
		inTransaction = err == nil
	case "COMMIT", "ROLLBACK":
		inTransaction = false
	}
	if inTransaction {
		t.open.Store(c.ConnectionID)
	} else {
		t.open.Store(0)
		t.turn.Unlock()
	}
	return err
}

func (t *turns) ComQuery(ctx context.Context, c *mysql.Conn, query string, callback mysql.ResultSpoolFn) error {
	return t.run(c, query, func() error { return t.Handler.ComQuery(ctx, c, query, callback) })
}

func (t *turns) ComMultiQuery(
	ctx context.Context, c *mysql.Conn, query string, callback mysql.ResultSpoolFn,
) (rest string, err error) {
	err = t.run(c, query, func() error {
		rest, err = t.Handler.ComMultiQuery(ctx, c, query, callback)
		return err
	})
	return rest, err
}

func (t *turns) ComStmtExecute(
	ctx context.Context, c *mysql.Conn, prepare *mysql.PrepareData, callback func(*sqltypes.Result) error,
) error {
	return t.run(c, prepare.PrepareStmt, func() error { return t.Handler.ComStmtExecute(ctx, c, prepare, callback) })
}

func (t *turns) ConnectionClosed(c *mysql.Conn) {
	t.Handler.ConnectionClosed(c)
	if t.open.CompareAndSwap(c.ConnectionID, 0) {
		t.turn.Unlock()
	}
}
