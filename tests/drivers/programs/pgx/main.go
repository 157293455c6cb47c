// What a Go service does with pgx: prints a line for each thing it tries.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func code(err error) string {
	var told *pgconn.PgError
	if errors.As(err, &told) {
		return told.Code
	}
	return fmt.Sprint(err)
}

func main() {
	ctx, stop := context.WithTimeout(context.Background(), 50*time.Second)
	defer stop()
	dsn := fmt.Sprintf("host=%s port=%s dbname=%s user=%s sslmode=disable", os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	modes := map[string]pgx.QueryExecMode{
		"cache_statement": pgx.QueryExecModeCacheStatement, "cache_describe": pgx.QueryExecModeCacheDescribe,
		"describe_exec": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec, "simple": pgx.QueryExecModeSimpleProtocol,
	}
	for _, name := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple"} {
		config, err := pgx.ParseConfig(dsn)
		must(err)
		config.DefaultQueryExecMode = modes[name]
		conn, err := pgx.ConnectConfig(ctx, config)
		must(err)
		session(ctx, name, conn)
		must(conn.Close(ctx))
	}
	pooled(ctx, dsn)
	fmt.Println("end")
}

func session(ctx context.Context, mode string, conn *pgx.Conn) {
	for i := 1; i <= 4; i++ {
		var name string
		must(conn.QueryRow(ctx, "select name from people where id = $1", i).Scan(&name))
		fmt.Println(mode, "row", name)
	}
	batch := &pgx.Batch{}
	for i := 0; i < 5; i++ {
		batch.Queue("select $1::int * 2", i)
	}
	results := conn.SendBatch(ctx, batch)
	for i := 0; i < 5; i++ {
		var n int
		must(results.QueryRow().Scan(&n))
		fmt.Println(mode, "batch", n)
	}
	must(results.Close())
	tx, err := conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "insert into scratch values ($1, $2)", 5000, "go")
	must(err)
	copied, err := tx.CopyFrom(ctx, pgx.Identifier{"scratch"}, []string{"a", "b"}, pgx.CopyFromRows([][]any{{5001, "x"}, {5002, "y"}}))
	must(err)
	var count int
	must(tx.QueryRow(ctx, "select count(*) from scratch where a between 5000 and 5999").Scan(&count))
	fmt.Println(mode, "copied", copied, count)
	must(tx.Rollback(ctx))
	_, err = conn.Exec(ctx, "select 1/0")
	fmt.Println(mode, "error", code(err))
	_, err = conn.Exec(ctx, "select * from nowhere")
	fmt.Println(mode, "error", code(err))
	var alive int
	must(conn.QueryRow(ctx, "select 1").Scan(&alive))
	fmt.Println(mode, "alive", alive)
}

func pooled(ctx context.Context, dsn string) {
	pool, err := pgxpool.New(ctx, dsn+" pool_max_conns=8")
	must(err)
	defer pool.Close()
	var group sync.WaitGroup
	answers := make([]int, 64)
	for i := range answers {
		group.Add(1)
		go func() {
			defer group.Done()
			must(pool.QueryRow(ctx, "select $1::int", i).Scan(&answers[i]))
		}()
	}
	group.Wait()
	fmt.Println("pool", answers)
}
