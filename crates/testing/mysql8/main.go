// A server of MySQL 8's dialect, in memory, for the tests of the MySQL storage: it speaks TLS,
// and signs its user in with caching_sha2_password, which is MySQL 8's default.
//
// usage: mysql8 PORT USER PASSWORD CERTIFICATE KEY
//
// It listens at 127.0.0.1, with an empty database `sessions`, and ends with its standard input.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"

	sqle "github.com/dolthub/go-mysql-server"
	"github.com/dolthub/go-mysql-server/memory"
	"github.com/dolthub/go-mysql-server/server"
	"github.com/dolthub/go-mysql-server/sql"
	"github.com/dolthub/go-mysql-server/sql/mysql_db"
)

const database = "sessions"

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: mysql8 PORT USER PASSWORD CERTIFICATE KEY")
		os.Exit(2)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(port, user, password, certificate, key string) error {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	sessions := memory.NewDatabase(database)
	// Foreign keys need them.
	sessions.EnablePrimaryKeyIndexes()
	provider := memory.NewDBProvider(sessions)
	engine := sqle.NewDefault(provider)
	if err := createUser(engine, provider, user, password); err != nil {
		return err
	}
	config := server.Config{
		Protocol:  "tcp",
		Address:   "127.0.0.1:" + port,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
	}
	listener, err := server.NewServerWithHandler(
		config, engine, sql.NewContext, memory.NewSessionBuilder(provider), nil, takeTurns)
	if err != nil {
		return err
	}
	return listener.Start()
}

// Creates the user, who may do anything.
func createUser(engine *sqle.Engine, provider *memory.DbProvider, user, password string) error {
	users := engine.Analyzer.Catalog.MySQLDb
	users.SetPersister(&mysql_db.NoopPersister{})
	users.AddRootAccount()
	root := sql.Client{User: "root", Address: "localhost"}
	session := memory.NewSession(sql.NewBaseSessionWithClientServer("", root, 1), provider)
	ctx := sql.NewContext(context.Background(), sql.WithSession(session))
	for _, statement := range []string{
		fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED WITH caching_sha2_password BY '%s'", user, password),
		fmt.Sprintf("GRANT ALL ON *.* TO '%s'@'%%'", user),
	} {
		_, rows, _, err := engine.Query(ctx, statement)
		if err != nil {
			return err
		}
		if _, err := sql.RowIterToRows(ctx, rows); err != nil {
			return err
		}
	}
	return nil
}
