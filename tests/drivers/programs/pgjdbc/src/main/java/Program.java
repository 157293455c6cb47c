import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;

/** What a Java service does with pgjdbc: prints a line for each thing it tries. */
public final class Program {
    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:postgresql://" + arguments[0] + ":" + arguments[1] + "/" + arguments[2];
        for (String mode : new String[] {"extended", "extendedForPrepared", "extendedCacheEverything", "simple"}) {
            Properties options = new Properties();
            options.setProperty("user", arguments[3]);
            options.setProperty("sslmode", "disable");
            options.setProperty("preferQueryMode", mode);
            options.setProperty("prepareThreshold", "2");
            try (Connection connection = DriverManager.getConnection(url, options)) {
                rows(mode, connection);
                transaction(mode, connection);
                errors(mode, connection);
            }
        }
        System.out.println("end");
    }

    private static void rows(String mode, Connection connection) throws SQLException {
        try (PreparedStatement byId = connection.prepareStatement("select name from people where id = ?")) {
            for (int id = 1; id <= 6; id++) {
                byId.setInt(1, id);
                try (ResultSet found = byId.executeQuery()) {
                    found.next();
                    System.out.println(mode + " row " + found.getString(1));
                }
            }
        }
        try (Statement several = connection.createStatement()) {
            several.execute("select 1; select 2");
            int results = 1;
            while (several.getMoreResults()) {
                results++;
            }
            System.out.println(mode + " several " + results);
        }
    }

    private static void transaction(String mode, Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("insert into scratch values (?, ?)")) {
            for (int n = 0; n < 300; n++) {
                insert.setInt(1, 7000 + n);
                insert.setString(2, "java");
                insert.addBatch();
            }
            System.out.println(mode + " batch " + insert.executeBatch().length);
        }
        if (!mode.equals("simple")) {
            long copied = connection.unwrap(PGConnection.class).getCopyAPI()
                .copyIn("copy scratch from stdin", new StringReader("7900\tcopied\n7901\tcopied\n"));
            System.out.println(mode + " copied " + copied);
        }
        int sum = 0;
        try (PreparedStatement fetch = connection.prepareStatement("select a from scratch where a >= 7000")) {
            fetch.setFetchSize(17);
            try (ResultSet found = fetch.executeQuery()) {
                while (found.next()) {
                    sum += found.getInt(1);
                }
            }
        }
        System.out.println(mode + " fetched " + sum);
        connection.rollback();
        connection.setAutoCommit(true);
    }

    private static void errors(String mode, Connection connection) throws SQLException {
        for (String broken : new String[] {"select 1/0", "select * from nowhere", "selct 1"}) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(broken);
            } catch (SQLException error) {
                System.out.println(mode + " error " + error.getSQLState());
            }
        }
        try (Statement statement = connection.createStatement(); ResultSet found = statement.executeQuery("select 1")) {
            found.next();
            System.out.println(mode + " alive " + found.getInt(1));
        }
    }
}
