// What every program does, in each of the driver's ways to send a query.

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.UUID;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ModesTest {
    private static Connection connect(String mode) throws SQLException {
        return Database.connect("preferQueryMode", mode, "prepareThreshold", "2");
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void valuesOfManyTypesComeBack(String mode) throws SQLException {
        UUID uuid = UUID.randomUUID();
        OffsetDateTime at = OffsetDateTime.of(2026, 11, 26, 12, 0, 0, 123_000_000, ZoneOffset.UTC);
        String sql = "select ?::int, ?::text, ?::bool, ?::numeric, ?::date, ?::timestamptz, ?::uuid, ?::bytea, ?::int[], ?::float8";
        try (Connection connection = connect(mode); PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int turn = 0; turn < 8; turn++) {
                statement.setInt(1, turn);
                statement.setString(2, "it's \\ é");
                statement.setBoolean(3, true);
                statement.setBigDecimal(4, new BigDecimal("1234567890.12345"));
                statement.setObject(5, LocalDate.of(2026, 11, 26));
                statement.setObject(6, at);
                statement.setObject(7, uuid);
                statement.setBytes(8, new byte[] {0, -1, 7});
                statement.setArray(9, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
                statement.setDouble(10, 1.5);
                try (ResultSet rows = statement.executeQuery()) {
                    assertTrue(rows.next());
                    assertEquals(turn, rows.getInt(1));
                    assertEquals("it's \\ é", rows.getString(2));
                    assertTrue(rows.getBoolean(3));
                    assertEquals(new BigDecimal("1234567890.12345"), rows.getBigDecimal(4));
                    assertEquals(LocalDate.of(2026, 11, 26), rows.getObject(5, LocalDate.class));
                    assertEquals(at, rows.getObject(6, OffsetDateTime.class));
                    assertEquals(uuid, rows.getObject(7));
                    assertArrayEquals(new byte[] {0, -1, 7}, rows.getBytes(8));
                    assertArrayEquals(new Integer[] {1, null, 3}, (Integer[]) rows.getArray(9).getArray());
                    assertEquals(1.5, rows.getDouble(10));
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void manyStatementsAreKept(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            for (int turn = 0; turn < 5; turn++) {
                for (int number = 0; number < 300; number++) {
                    try (PreparedStatement statement = connection.prepareStatement("select " + number + " * ?::int")) {
                        statement.setInt(1, turn);
                        try (ResultSet rows = statement.executeQuery()) {
                            assertTrue(rows.next());
                            assertEquals(number * turn, rows.getInt(1));
                        }
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void transactionsAndSavepoints(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            connection.setAutoCommit(false);
            Database.run(connection, "create temp table points (n int) on commit drop");
            Database.run(connection, "insert into points values (1)");
            Savepoint savepoint = connection.setSavepoint("a");
            assertEquals("22012", assertThrows(SQLException.class, () -> Database.run(connection, "select 1/0")).getSQLState());
            assertEquals("25P02", assertThrows(SQLException.class, () -> Database.run(connection, "select 1")).getSQLState());
            connection.rollback(savepoint);
            Database.run(connection, "insert into points values (2)");
            connection.releaseSavepoint(savepoint);
            assertEquals("3", Database.ask(connection, "select sum(n) from points"));
            connection.commit();
            assertThrows(SQLException.class, () -> Database.run(connection, "select * from points"));
            connection.rollback();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"extended", "extendedForPrepared", "extendedCacheEverything"})
    void rowsAreFetchedInPieces(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            connection.setAutoCommit(false);
            for (int size : new int[] {1, 10, 999}) {
                try (PreparedStatement statement = connection.prepareStatement("select generate_series(1, ?)")) {
                    statement.setFetchSize(size);
                    statement.setInt(1, 500);
                    long sum = 0;
                    try (ResultSet rows = statement.executeQuery()) {
                        while (rows.next()) {
                            sum += rows.getInt(1);
                        }
                    }
                    assertEquals(125_250, sum);
                }
            }
            connection.commit();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void batches(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            Database.run(connection, "create temp table batched (n int primary key, t text)");
            try (PreparedStatement statement = connection.prepareStatement("insert into batched values (?, ?)")) {
                for (int number = 0; number < 1000; number++) {
                    statement.setInt(1, number);
                    statement.setString(2, "row " + number);
                    statement.addBatch();
                }
                assertEquals(1000, statement.executeBatch().length);
                for (int number : new int[] {2000, 5, 2001}) {
                    statement.setInt(1, number);
                    statement.setString(2, "again");
                    statement.addBatch();
                }
                assertThrows(BatchUpdateException.class, statement::executeBatch);
            }
            assertEquals("1000", Database.ask(connection, "select count(*) from batched where n < 2000"));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void keysThatAreMadeComeBack(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            Database.run(connection, "create temp table keyed (id serial, t text)");
            String sql = "insert into keyed (t) values (?), (?)";
            try (PreparedStatement statement = connection.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
                for (int turn = 0; turn < 6; turn++) {
                    statement.setString(1, "a");
                    statement.setString(2, "b");
                    assertEquals(2, statement.executeUpdate());
                    try (ResultSet keys = statement.getGeneratedKeys()) {
                        assertTrue(keys.next());
                        assertEquals(turn * 2 + 1, keys.getInt(1));
                    }
                }
            }
        }
    }

    @ParameterizedTest
    // Not "simple", in which pgjdbc sends the result's placeholder as an argument.
    @ValueSource(strings = {"extended", "extendedForPrepared", "extendedCacheEverything"})
    void functionsAreCalled(String mode) throws SQLException {
        try (Connection connection = connect(mode); CallableStatement call = connection.prepareCall("{? = call upper(?)}")) {
            for (int turn = 0; turn < 6; turn++) {
                call.registerOutParameter(1, Types.VARCHAR);
                call.setString(2, "text " + turn);
                call.execute();
                assertEquals("TEXT " + turn, call.getString(1));
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void settingsOfASessionLast(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            connection.setSchema("jdbc_schema");
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setClientInfo("ApplicationName", "jdbc app");
            Database.run(connection, "set jdbc.tenant = 'seven'");
            for (int turn = 0; turn < 10; turn++) {
                assertEquals("jdbc_schema", connection.getSchema());
                assertEquals(Connection.TRANSACTION_SERIALIZABLE, connection.getTransactionIsolation());
                assertEquals("serializable", Database.ask(connection, "show transaction_isolation"));
                assertEquals("jdbc app", Database.ask(connection, "show application_name"));
                assertEquals("seven", Database.ask(connection, "show jdbc.tenant"));
            }
            connection.setReadOnly(true);
            connection.setAutoCommit(false);
            SQLException refused = assertThrows(SQLException.class, () -> Database.run(connection, "create table never (n int)"));
            assertEquals("25006", refused.getSQLState());
            connection.rollback();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
    void aSavepointOfTheDriverSavesTheTransaction(String mode) throws SQLException {
        try (Connection connection = Database.connect("preferQueryMode", mode, "autosave", "always")) {
            connection.setAutoCommit(false);
            Database.run(connection, "create temp table saved (n int) on commit drop");
            Database.run(connection, "insert into saved values (1)");
            assertThrows(SQLException.class, () -> Database.run(connection, "insert into saved values ('x')"));
            assertEquals("1", Database.ask(connection, "select count(*) from saved"));
            connection.commit();
        }
    }

    // The driver asks anew by itself where it can: outside a transaction.
    @ParameterizedTest
    @ValueSource(strings = {"extended", "extendedForPrepared", "extendedCacheEverything"})
    void aTableChangesUnderAStatement(String mode) throws SQLException {
        try (Connection connection = connect(mode)) {
            Database.run(connection, "drop table if exists jdbc_changed");
            Database.run(connection, "create table jdbc_changed (n int)");
            Database.run(connection, "insert into jdbc_changed values (77)");
            try (PreparedStatement statement = connection.prepareStatement("select * from jdbc_changed")) {
                for (int turn = 0; turn < 6; turn++) {
                    statement.executeQuery().close();
                }
                Database.run(connection, "alter table jdbc_changed alter n type text using 'was ' || n");
                try (ResultSet rows = statement.executeQuery()) {
                    assertTrue(rows.next());
                    assertEquals("was 77", rows.getString(1));
                    assertFalse(rows.next());
                }
            }
            Database.run(connection, "drop table jdbc_changed");
        }
    }
}
