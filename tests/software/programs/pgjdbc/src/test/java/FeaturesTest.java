// What the driver adds to JDBC, and many clients at once.

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.xa.PGXADataSource;

@Timeout(value = 180, unit = TimeUnit.SECONDS)
class FeaturesTest {
    private static void together(int count, Callable<Void> work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Future<Void>> running = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            running.add(threads.submit(work));
        }
        threads.shutdown();
        for (Future<Void> one : running) {
            one.get();
        }
    }

    @Test
    void copyBothWays() throws Exception {
        try (Connection connection = Database.connect()) {
            Database.run(connection, "create temp table copied (n int, t text)");
            CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int number = 0; number < 20_000; number++) {
                lines.append(number).append("\tline ").append(number).append('\n');
            }
            assertEquals(20_000, copies.copyIn("copy copied from stdin", new StringReader(lines.toString())));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            assertEquals(20_000, copies.copyOut("copy (select * from copied order by n) to stdout", out));
            assertEquals(lines.toString(), out.toString(StandardCharsets.UTF_8));
            SQLException bad = assertThrows(SQLException.class, () -> copies.copyIn("copy copied from stdin", new StringReader("x\ty\n")));
            assertEquals("22P02", bad.getSQLState());
            assertEquals("1", Database.ask(connection, "select 1"));
        }
    }

    @Test
    void notifications() throws Exception {
        try (Connection listener = Database.connect(); Connection speaker = Database.connect()) {
            Database.run(listener, "listen jdbc_channel");
            for (int number = 0; number < 50; number++) {
                Database.run(speaker, "notify jdbc_channel, '" + number + "'");
            }
            List<String> heard = new ArrayList<>();
            while (heard.size() < 50) {
                PGNotification[] found = listener.unwrap(PGConnection.class).getNotifications(20_000);
                assertTrue(found != null && found.length > 0, "heard " + heard.size());
                for (PGNotification one : found) {
                    assertEquals(speaker.unwrap(PGConnection.class).getBackendPID(), one.getPID());
                    heard.add(one.getParameter());
                }
            }
            for (int number = 0; number < 50; number++) {
                assertEquals(String.valueOf(number), heard.get(number));
            }
        }
    }

    @Test
    void aStatementIsCancelled() throws Exception {
        try (Connection connection = Database.connect(); Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(400);
                    statement.cancel();
                } catch (InterruptedException | SQLException failed) {
                    throw new IllegalStateException(failed);
                }
            });
            canceller.start();
            SQLException cancelled = assertThrows(SQLException.class, () -> statement.execute("select pg_sleep(60)"));
            assertEquals("57014", cancelled.getSQLState());
            canceller.join();
            assertEquals("1", Database.ask(connection, "select 1"));
        }
    }

    @Test
    void aQueryTimeout() throws Exception {
        try (Connection connection = Database.connect(); Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            SQLException late = assertThrows(SQLException.class, () -> statement.execute("select pg_sleep(60)"));
            assertTrue(late instanceof SQLTimeoutException || "57014".equals(late.getSQLState()), late.toString());
            statement.setQueryTimeout(0);
            assertEquals("1", Database.ask(connection, "select 1"));
        }
    }

    @Test
    void largeObjects() throws Exception {
        try (Connection connection = Database.connect()) {
            connection.setAutoCommit(false);
            LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long number = objects.createLO(LargeObjectManager.READWRITE);
            byte[] bytes = new byte[300_000];
            for (int at = 0; at < bytes.length; at++) {
                bytes[at] = (byte) at;
            }
            try (LargeObject object = objects.open(number, LargeObjectManager.WRITE)) {
                object.write(bytes);
            }
            connection.commit();
            try (LargeObject object = objects.open(number, LargeObjectManager.READ)) {
                object.seek(100);
                byte[] found = object.read(1000);
                assertArrayEquals(java.util.Arrays.copyOfRange(bytes, 100, 1100), found);
            }
            objects.delete(number);
            connection.commit();
        }
    }

    @Test
    void distributedTransactions() throws Exception {
        PGXADataSource source = new PGXADataSource();
        source.setUrl(Database.url() + "?sslmode=disable");
        source.setUser(System.getenv("PGUSER"));
        try (Connection admin = Database.connect()) {
            Database.run(admin, "drop table if exists jdbc_xa");
            Database.run(admin, "create table jdbc_xa (n int)");
            for (int number = 0; number < 4; number++) {
                var xa = source.getXAConnection();
                Xid xid = new Branch(number);
                XAResource resource = xa.getXAResource();
                resource.start(xid, XAResource.TMNOFLAGS);
                Database.run(xa.getConnection(), "insert into jdbc_xa values (" + number + ")");
                resource.end(xid, XAResource.TMSUCCESS);
                resource.prepare(xid);
                assertTrue(resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length >= 1);
                if (number % 2 == 0) {
                    resource.commit(xid, false);
                } else {
                    resource.rollback(xid);
                }
                xa.close();
            }
            assertEquals("0,2", Database.ask(admin, "select string_agg(n::text, ',' order by n) from jdbc_xa"));
            Database.run(admin, "drop table jdbc_xa");
        }
    }

    private record Branch(int number) implements Xid {
        @Override
        public int getFormatId() {
            return 4711;
        }

        @Override
        public byte[] getGlobalTransactionId() {
            return ("jdbc " + number).getBytes(StandardCharsets.UTF_8);
        }

        @Override
        public byte[] getBranchQualifier() {
            return "branch".getBytes(StandardCharsets.UTF_8);
        }
    }

    @Test
    void theCatalogueIsRead() throws Exception {
        try (Connection connection = Database.connect()) {
            Database.run(connection, "drop table if exists jdbc_child, jdbc_parent");
            Database.run(connection, "create table jdbc_parent (id int primary key, name varchar(30) not null default 'x')");
            Database.run(connection, "create table jdbc_child (id int primary key, parent int references jdbc_parent)");
            DatabaseMetaData about = connection.getMetaData();
            try (ResultSet columns = about.getColumns(null, "public", "jdbc_parent", null)) {
                assertTrue(columns.next() && "id".equals(columns.getString("COLUMN_NAME")));
                assertTrue(columns.next() && 30 == columns.getInt("COLUMN_SIZE"));
                assertFalse(columns.next());
            }
            try (ResultSet keys = about.getImportedKeys(null, "public", "jdbc_child")) {
                assertTrue(keys.next());
                assertEquals("jdbc_parent", keys.getString("PKTABLE_NAME"));
            }
            try (ResultSet keys = about.getPrimaryKeys(null, "public", "jdbc_child")) {
                assertTrue(keys.next());
            }
            Database.run(connection, "drop table jdbc_child, jdbc_parent");
        }
    }

    @Test
    void batchesThatAreRewritten() throws Exception {
        try (Connection connection = Database.connect("reWriteBatchedInserts", "true")) {
            Database.run(connection, "create temp table rewritten (n int, t text)");
            try (PreparedStatement statement = connection.prepareStatement("insert into rewritten (n, t) values (?, ?)")) {
                for (int turn = 0; turn < 3; turn++) {
                    for (int number = 0; number < 777; number++) {
                        statement.setInt(1, number);
                        statement.setString(2, "t");
                        statement.addBatch();
                    }
                    assertEquals(777, statement.executeBatch().length);
                }
            }
            assertEquals("2331", Database.ask(connection, "select count(*) from rewritten"));
        }
    }

    @Test
    void startupOptionsLast() throws Exception {
        try (Connection connection = Database.connect("options", "-c work_mem=6MB -c search_path=jdbc_a", "ApplicationName", "jdbc start")) {
            for (int turn = 0; turn < 10; turn++) {
                assertEquals("6MB", Database.ask(connection, "show work_mem"));
                assertEquals("jdbc_a", Database.ask(connection, "show search_path"));
                assertEquals("jdbc start", Database.ask(connection, "show application_name"));
            }
            Database.run(connection, "set work_mem = '8MB'");
            Database.run(connection, "reset work_mem");
            assertEquals("6MB", Database.ask(connection, "show work_mem"));
        }
    }

    @Test
    void manyClientsMoveMoney() throws Exception {
        try (Connection admin = Database.connect()) {
            Database.run(admin, "drop table if exists jdbc_ledger");
            Database.run(admin, "create table jdbc_ledger as select n id, 100 amount from generate_series(0, 49) n");
            together(Database.CLIENTS, () -> {
                try (Connection connection = Database.connect("prepareThreshold", "2")) {
                    connection.setAutoCommit(false);
                    String own = String.valueOf(Thread.currentThread().getId());
                    Database.run(connection, "set jdbc.own = '" + own + "'");
                    connection.commit();
                    String sql = "update jdbc_ledger set amount = amount + ? where id = ?";
                    try (PreparedStatement update = connection.prepareStatement(sql)) {
                        for (int turn = 0; turn < 40; turn++) {
                            int one = turn * 7 % 50;
                            int other = (turn * 13 + 1) % 50;
                            if (one != other) {
                                update.setInt(1, one < other ? 3 : -3);
                                update.setInt(2, Math.min(one, other));
                                update.executeUpdate();
                                update.setInt(1, one < other ? -3 : 3);
                                update.setInt(2, Math.max(one, other));
                                update.executeUpdate();
                            }
                            assertEquals(own, Database.ask(connection, "show jdbc.own"));
                            if (turn % 9 == 0) {
                                connection.rollback();
                            } else {
                                connection.commit();
                            }
                        }
                    }
                }
                return null;
            });
            assertEquals("5000", Database.ask(admin, "select sum(amount) from jdbc_ledger"));
            Database.run(admin, "drop table jdbc_ledger");
        }
    }

    @Test
    void aPoolBeforeThePool() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(Database.url() + "?sslmode=disable");
        config.setUsername(System.getenv("PGUSER"));
        config.setMaximumPoolSize(Database.CLIENTS);
        config.setConnectionInitSql("set work_mem = '9MB'");
        try (HikariDataSource source = new HikariDataSource(config)) {
            together(2 * Database.CLIENTS, () -> {
                for (int turn = 0; turn < 25; turn++) {
                    try (Connection connection = source.getConnection()) {
                        assertNotNull(connection);
                        connection.setReadOnly(turn % 2 == 0);
                        connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
                        assertEquals("9MB", Database.ask(connection, "show work_mem"));
                        assertEquals("repeatable read", Database.ask(connection, "show transaction_isolation"));
                    }
                }
                return null;
            });
        }
    }
}
