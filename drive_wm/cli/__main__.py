from drive_wm.cli import main

if __name__ == "__main__":
    main()
